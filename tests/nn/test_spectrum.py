"""Singular values from Gram matrices, against singular value decompositions of hard spectra."""

import pytest
import torch

from ranklens.nn import spectrum as spectra
from ranklens.nn.rank_rows import least_rank
from ranklens.nn.spectrum import gram_matrix, product_spectrum, spectrum
from ranklens.tensors import measures

# Relative error of effective and stable ranks from weights of at most float32.
PROMISED = 1e-6
# Absolute error of cosines and singular values of float64 decompositions, relative to the largest.
ROUNDED = 1e-12


def decay(count, kind):
    k = torch.arange(count, dtype=torch.float64)
    return {
        "flat": torch.ones(count, dtype=torch.float64),
        "slow": 0.999**k,
        "fast": 0.8**k,
        "power": 1 / (1 + k),
        "square": 1 / (1 + k) ** 2,
        "six decades": 10 ** (-6 * k / count),
        "twelve decades": 10 ** (-12 * k / count),
        "step": torch.where(k < 3, 1.0, 1e-7).double(),
        "low rank": torch.where(k < 3, 1.0, 0.0).double(),
        "outlier": torch.where(k < 1, 1e4, 1.0).double(),
    }[kind]


KINDS = ["flat", "slow", "fast", "power", "square", "six decades", "twelve decades", "step", "low rank", "outlier"]
SHAPES = [(40, 40), (60, 24), (24, 60), (300, 20), (1, 9)]
DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]


def weight(shape, kind, dtype, seed):
    g = torch.Generator().manual_seed(seed)
    size = min(shape)
    U = torch.linalg.qr(torch.randn(shape[0], size, generator=g, dtype=torch.float64)).Q
    V = torch.linalg.qr(torch.randn(shape[1], size, generator=g, dtype=torch.float64)).Q
    return ((U * decay(size, kind)) @ V.T).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_two_hundred_hard_spectra(kind, dtype):
    for seed, shape in enumerate(SHAPES):
        W = weight(shape, kind, dtype, seed)
        found, exact = spectrum(W), torch.linalg.svdvals(W.double())
        assert float(measures.effective_rank_of(found)) == pytest.approx(
            float(measures.effective_rank_of(exact)), rel=PROMISED
        )
        assert float(measures.stable_rank_of(found)) == pytest.approx(
            float(measures.stable_rank_of(exact)), rel=PROMISED
        )
        cutoff = measures.rank_cutoff(dtype, shape)
        assert int((found > cutoff * found[0]).sum()) == int((exact > cutoff * exact[0]).sum())
        for energy in (0.5, 0.9, 0.99, 0.9999):
            assert least_rank(found, energy) == least_rank(exact, energy)


def test_blocks_and_panels_change_nothing(monkeypatch, tolerance):
    W = weight((70, 50), "power", torch.float32, 0)
    whole, turned = spectrum(W), spectrum(W.T)
    monkeypatch.setattr(spectra, "BLOCK_ENTRIES", 1)
    monkeypatch.setattr(spectra, "PANEL", 7)
    for found in (spectrum(W), spectrum(W.T), spectrum(W.double())):
        assert float((found - whole).abs().max()) <= tolerance["rounding"] * float(whole[0])
    assert float((turned - whole).abs().max()) <= tolerance["rounding"] * float(whole[0])
    gram = gram_matrix(W).triu()
    assert float((gram - (W.double().T @ W.double()).triu()).abs().max()) <= tolerance["rounding"] * float(gram.max())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", DTYPES)
def test_entries_that_are_not_finite_give_nan(value, dtype):
    W = torch.ones(5, 3, dtype=dtype)
    W[4, 1] = value
    assert bool(torch.isnan(spectrum(W)).all())
    assert len(spectrum(W)) == 3
    assert bool(torch.isnan(product_spectrum(W, torch.ones(3, 2, dtype=dtype))).all())


def test_zero_and_extreme_weights():
    assert spectrum(torch.zeros(4, 3)).tolist() == [0.0, 0.0, 0.0]
    for scale in (1e-38, 1e38):
        W = torch.eye(3) * scale
        assert spectrum(W).tolist() == pytest.approx([float(W[0, 0])] * 3)


def test_numbers_of_8_bits_are_measured():
    W = torch.randn(12, 7, generator=torch.Generator().manual_seed(0)).to(torch.float8_e4m3fn)
    exact = torch.linalg.svdvals(W.double())
    assert float((spectrum(W) - exact).abs().max()) <= ROUNDED * float(exact[0])


@pytest.mark.parametrize(("rows", "inner", "columns"), [(30, 4, 20), (3, 8, 20), (20, 8, 3), (5, 5, 5)])
def test_products_are_not_formed(rows, inner, columns):
    g = torch.Generator().manual_seed(0)
    left, right = torch.randn(rows, inner, generator=g), torch.randn(inner, columns, generator=g)
    found, exact = product_spectrum(left, right), torch.linalg.svdvals(left.double() @ right.double())
    assert len(found) == min(rows, inner, columns)
    assert float((found - exact[: len(found)]).abs().max()) <= ROUNDED * float(exact[0])
