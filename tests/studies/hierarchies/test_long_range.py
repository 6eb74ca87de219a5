"""The target, the theorems and the measurements of the study, against numpy and planted records."""

import dataclasses
import math

import numpy as np
import pytest
import xarray as xr

import ranklens as rl
from ranklens import studies
from ranklens.studies.hierarchies import long_range
from ranklens.studies.kit import records
from ranklens.studies.kit.agreement import agreement

# Relative error of the distance between two tensors that agree to some per cent: rounding, divided by the distance.
MOVED = 1e-9


@pytest.fixture(scope="module")
def record():
    return studies.perform("long_range", studies.preset("long_range", "tiny"))


def unfolded(T, rows):
    columns = [n for n in range(T.ndim) if n not in rows]
    return np.transpose(T, [*rows, *columns]).reshape(math.prod(T.shape[n] for n in rows), -1)


def theorems(record):
    return [claim for claim in studies.judge(record) if claim.must_hold]


@pytest.mark.parametrize("size", [3, 5])
def test_the_far_pair_has_high_rank_across_the_root_and_the_right_tree_makes_it_one(size):
    ranks = {
        case: int(np.linalg.matrix_rank(unfolded(agreement(size, modes).numpy(), tree.children(tree.root)[0])))
        for case, (modes, tree) in long_range.AGREE.items()
    }
    assert ranks == {"near": 1, "far": size - 1, "far, its own tree": 1}


def test_theorems_hold_and_the_record_lasts(record, tmp_path):
    assert len(theorems(record)) == 3
    assert all(claim.holds for claim in theorems(record))
    again = rl.load(rl.save(record, tmp_path / "record.nc"))
    xr.testing.assert_identical(again, record)
    assert studies.judge(again) == studies.judge(record)
    assert long_range.alt(again) == long_range.alt(record)


def test_spoilt_records_fail(record):
    floats = [name for name in record if record[name].dtype.kind == "f"]
    spoilt = record.assign({name: record[name] * 1.5 + 3.0 for name in floats})
    assert not any(claim.holds for claim in theorems(spoilt))


@pytest.mark.parametrize(("name", "k"), [("moved_over_bound", 0), ("beyond_cut", 1), ("separation", 2)])
@pytest.mark.parametrize("value", [1.01, math.nan])
def test_one_value_that_is_off_or_not_a_number_fails_its_claim_alone(record, name, k, value):
    spoilt = record.copy(deep=True)
    spoilt[name][(1, 0, 0)[: spoilt[name].ndim]] = value
    assert [claim.holds for claim in theorems(spoilt)] == [j != k for j in range(3)]


def test_findings_are_of_medians_over_the_seeds_and_nan_fails_them(record):
    planted = xr.concat([record.assign_coords(seed=[k]) for k in range(3)], dim="seed").transpose("case", "seed", ...)
    planted.attrs = record.attrs
    rows = {"row": planted.sizes["row"] - 1}
    for case, steps, tests in (
        ("near", [10, 100, 1000], [0.1, 0.2, 0.3]),
        ("far", [4000, 500, 5], [0.8, 1.4, 0.1]),
        (long_range.CONTROL, [150, 160, 1], [0.2, 0.3, 0.9]),
    ):
        planted.step.loc[{"case": case} | rows] = steps
        planted.test.loc[{"case": case} | rows] = tests
    measured = [claim.measured for claim in studies.judge(planted)[2:6]]
    assert measured == pytest.approx([5.0, 4.0, 1.5, 1.5])
    for name, case, k in (("test", "far", 3), ("effective_rank", "near", 6)):
        poisoned = planted.copy(deep=True)
        poisoned[name].loc[{"case": case, "seed": 1} | rows] = math.nan
        claims = studies.judge(poisoned)
        assert [j for j, claim in enumerate(claims) if math.isnan(claim.measured)] == [k]
    poisoned = planted.copy(deep=True)
    poisoned["component"].loc[{"case": long_range.DRAWN, "seed": 2, "r": 0}] = math.nan
    assert math.isnan(studies.judge(poisoned)[-2].measured)


def test_the_test_error_is_over_unobserved_entries(record, tolerance):
    """Compare the first row with numpy, from the initial network and the sample."""
    settings = records.settings_of(record, long_range.Settings)
    shape = (settings.size,) * 4
    for case, (modes, tree) in long_range.AGREE.items():
        target = agreement(settings.size, modes)
        observed = rl.Completion.sample(target, settings.observed, seed=0).indices.numpy()
        start = rl.hierarchical(shape, settings.width, tree, std=settings.std, seed=0).tensor().detach().numpy()
        errors, mask = np.square(start - target.numpy()), np.ones(shape, dtype=bool)
        mask[tuple(observed.T)] = False
        assert mask.sum() == settings.size**4 - settings.observed
        first = record.sel(case=case, seed=0).isel(row=0)
        assert float(first.test) == pytest.approx(errors[mask].mean(), rel=tolerance["rounding"])
        assert float(first.loss) == pytest.approx(errors[~mask].mean(), rel=tolerance["rounding"])


def test_the_end_of_a_run_by_numpy(tolerance):
    tree = rl.ModeTree.adjacent(4)
    net = rl.hierarchical((4,) * 4, 6, tree, std=0.8)
    end = long_range._end(net, tree, 2)
    a, b, c, d, left, right, top = (node.detach().numpy() for node in net.nodes)
    W = np.einsum("ai,bi,cj,dj,ir,jr,r->abcd", a, b, c, d, left, right, top)
    root = np.sort(np.linalg.norm(left, axis=0) * np.linalg.norm(right, axis=0) * np.abs(top))[::-1]
    assert np.allclose(end.component, root, rtol=tolerance["rounding"])
    s = np.linalg.svd(W.reshape(16, 16), compute_uv=False)
    assert np.allclose(end.root_singular, s, rtol=0, atol=tolerance["rounding"] * s[0])
    for width in end.width.values:
        keep = {
            "i": np.argsort(-np.linalg.norm(a, axis=0) * np.linalg.norm(b, axis=0) * np.linalg.norm(left, axis=1)),
            "j": np.argsort(-np.linalg.norm(c, axis=0) * np.linalg.norm(d, axis=0) * np.linalg.norm(right, axis=1)),
            "r": np.argsort(-np.linalg.norm(left, axis=0) * np.linalg.norm(right, axis=0) * np.abs(top)),
        }
        i, j, r = (keep[x][:width] for x in "ijr")
        small = np.einsum(
            "ai,bi,cj,dj,ir,jr,r->abcd",
            *(a[:, i], b[:, i], c[:, j], d[:, j], left[np.ix_(i, r)], right[np.ix_(j, r)], top[r]),
        )
        moved = np.linalg.norm(W - small) / np.linalg.norm(W)
        assert float(end.moved.sel(width=width)) == pytest.approx(moved, rel=MOVED)
        if width == 2:
            forbidden = [np.linalg.svd(unfolded(small, rows), compute_uv=False) for rows in ((0,), (0, 1))]
            assert max(s[2] / s[0] for s in forbidden) <= tolerance["rounding"]


def test_the_cut_check_is_no_matter_of_size(record):
    """Before truncation the singular values that the cut forbids are there."""
    tree = rl.ModeTree.adjacent(4)
    net = rl.hierarchical((4,) * 4, 8, tree, std=0.8)
    for modes in ((0,), (0, 1), (0, 2)):
        bound = rl.theory.rank_bounds.min_cut_bound(rl.truncate(net, dict.fromkeys(net.bonds, 3)), modes)
        s = np.linalg.svd(unfolded(net.tensor().detach().numpy(), modes), compute_uv=False)
        assert bound < len(s)
        assert s[bound] / s[0] > 1e3 * long_range.ROUNDING
    assert (record.beyond_cut > 0).all()  # measured, not skipped


def test_figures_have_titles_axes_and_lines(record):
    for axes in long_range.draw(record).axes:
        assert axes.get_title(loc="left")
        assert axes.get_xlabel()
        assert axes.lines
    assert "iterations" in long_range.alt(record)


def test_two_runs_of_one_seed_agree(record):
    again = studies.perform("long_range", studies.preset("long_range", "tiny"))
    for name in ("loss", "test", "component", "moved_over_bound"):
        assert np.array_equal(again[name], record[name], equal_nan=True)


@pytest.mark.slow
def test_the_far_pair_takes_four_times_as_long():
    settings = dataclasses.replace(studies.preset("long_range", "laptop"), seeds=(2,))
    claims = {claim.statement: claim for claim in studies.judge(studies.perform("long_range", settings))}
    for start in ("Number of steps until the training loss", "Mean squared error over unobserved"):
        assert next(claim for text, claim in claims.items() if text.startswith(start)).holds
