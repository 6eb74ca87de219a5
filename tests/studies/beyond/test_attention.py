"""Lists, products, onsets and claims of the study, against literal loops and planted records."""

import dataclasses
import math

import numpy as np
import pytest
import torch

import ranklens as rl
from ranklens import studies
from ranklens.studies.beyond import attention as study

SETTINGS = study.Settings(symbols=5, pairs=3, examples=40, heads=2, head_size=4)
# Relative error of products of float32 weights.
SINGLE = 1e-4
# Relative error of the standard deviation of a hundred normal numbers, and of shares of twenty thousand draws.
DRAWN, SHARE = 0.2, 0.02
# Relative differences of losses, and of singular values, after some float32 steps in batches of other sizes.
STEPS = {"loss": 1e-3, "OV": 1e-2}


@pytest.fixture(scope="module")
def record():
    return studies.perform("attention", study.PRESETS["tiny"])


def weights(layers=1, seed=0):
    shape = (layers, SETTINGS.heads, SETTINGS.head_size, 2 * SETTINGS.symbols)
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) for name in study.WEIGHTS}


def test_the_answer_follows_the_name_that_is_asked_for():
    made = study.lists(SETTINGS, 1)
    n = SETTINGS.symbols
    for positions, asked, answer in zip(made.positions, made.asked, made.answer, strict=True):
        names, values = positions[:, :n].argmax(1), positions[:, n:].argmax(1)
        assert len(set(names.tolist())) == SETTINGS.pairs
        assert bool((positions.sum(1) == 2).all())
        assert (float(asked.sum()), int(asked.argmax()) < n) == (1.0, True)
        assert int(values[names == asked.argmax()]) == int(answer)


def test_names_are_as_frequent_as_they_should_be():
    many = study.lists(dataclasses.replace(SETTINGS, pairs=1, examples=20_000, power=1.0), 0)
    found = many.positions[:, 0, : SETTINGS.symbols].mean(0)
    wanted = 1 / torch.arange(1, SETTINGS.symbols + 1)
    torch.testing.assert_close(found, wanted / wanted.sum(), atol=SHARE, rtol=0)


def test_logits_by_a_loop_over_heads_and_positions():
    own, made = weights(layers=2), study.lists(SETTINGS, 0)
    both = (torch.stack([made.positions] * 2), torch.stack([made.asked] * 2))
    found = study.logits(own, *both)
    for layer in range(2):
        for example in (0, 7):
            x, query = made.positions[example], made.asked[example]
            total = torch.zeros(2 * SETTINGS.symbols)
            for h in range(SETTINGS.heads):
                Q, K, V, W = (own[name][layer, h] for name in ("query", "key", "value", "output"))
                attention = torch.softmax((K @ x.T).T @ (Q @ query), 0)
                total += W.T @ (V @ (attention @ x))
            torch.testing.assert_close(found[layer, example], total[SETTINGS.symbols :], rtol=SINGLE, atol=SINGLE)


def test_products_are_those_that_attention_products_measures():
    own = {name: weight[0] for name, weight in weights().items()}
    model = {
        "q_proj.weight": own["query"].flatten(0, 1),
        "k_proj.weight": own["key"].flatten(0, 1),
        "v_proj.weight": own["value"].flatten(0, 1),
        "o_proj.weight": own["output"].flatten(0, 1).T.contiguous(),
    }
    table = rl.nn.attention_products(model, heads=SETTINGS.heads)
    made = study.products(own)
    for name in study.PRODUCTS:
        for h in range(SETTINGS.heads):
            known = float(table.effective_rank.sel(weight=f"{name}[{h}]"))
            assert float(rl.effective_rank(made[name][h].double())) == pytest.approx(known, rel=SINGLE)


def test_both_starts_have_equal_normal_numbers():
    small, usual = (study.initial_weights(SETTINGS, start, 3) for start in study.STARTS)
    for one, other in zip(small, usual, strict=True):
        torch.testing.assert_close(one, SETTINGS.small * other)
    assert float(usual[0].std()) == pytest.approx(1 / math.sqrt(2 * SETTINGS.symbols), rel=DRAWN)


def test_effective_rank_of_all_heads_is_that_of_a_block_diagonal_matrix(record):
    last = record.isel(row=-1, start=0, decay=0, seed=0)
    whole = torch.diag(torch.from_numpy(last.QK.values.reshape(-1)))
    assert float(study.effective_rank(last, "QK")) == pytest.approx(float(rl.effective_rank(whole)))
    dead = last.copy(deep=True)
    dead.QK[1] = 0
    one = torch.diag(torch.from_numpy(dead.QK.values[0]))
    assert float(study.effective_rank(dead, "QK")) == pytest.approx(float(rl.effective_rank(one)))


def test_weight_decay_alone_shrinks_and_seeds_do_not_influence_each_other():
    settings = dataclasses.replace(study.PRESETS["tiny"], seeds=(0, 1))
    both, alone = study.run(settings), study.run(dataclasses.replace(settings, seeds=(1,)))
    for name, close in STEPS.items():
        np.testing.assert_allclose(both[name].sel(seed=1), alone[name].sel(seed=1), rtol=close, atol=SINGLE)


def test_a_control_waits_for_every_component():
    assert study.factorization(study.Settings(), 5) == study.Settings().components - 1


def planted(record, *, one_at_a_time=False):
    """Three components in each of two heads that rise at rows 2, 8 and 14 of 21, over 3 or 20 rows."""
    found = record.copy(deep=True)
    row = np.arange(found.sizes["row"])
    rise = 2 if one_at_a_time else 18
    for name in study.PRODUCTS:
        found[name][:] = 0
        for k, on in enumerate((1, 7, 13)):
            curve = (3 - k) * np.clip((row - on) / rise, 0, 1)
            found[name].values[0, ..., k] = curve[:, None]  # start, decay, seed, row, head, component
        found[name].values[1, ..., :3] = 1.0
    return found


@pytest.mark.parametrize("one_at_a_time", [False, True])
def test_onsets_of_planted_curves(record, one_at_a_time):
    waits, spans = study.learning(planted(record, one_at_a_time=one_at_a_time), "OV")
    assert set(waits.sel(start="small").values.ravel()) == {2.0 if one_at_a_time else 0.0}
    assert set(spans.sel(start="usual").values.ravel()) == {0.0}
    assert spans.sel(start="small").values.min() > 0.4


def test_onsets_are_taken_until_the_task_is_learned(record):
    late = planted(record)
    late.loss[:] = 1.0
    late.loss.values[..., 10:] = 0.01
    kept = study.until_fitted(late.isel(start=0, decay=0, seed=0), study.Settings())
    assert kept.sizes["row"] == 11
    late.loss[:] = 1.0
    assert study.until_fitted(late.isel(start=0, decay=0, seed=0), study.Settings()).sizes["row"] == record.sizes["row"]


def test_gaps_are_not_negative_and_an_error_in_them_fails(record):
    assert study.claims(record)[0].holds
    for factor in (0.9, 1.1):
        wrong = record.assign(QK_gap=factor * record.QK_gap)
        assert not study.claims(wrong)[0].holds


ADDITION = dataclasses.replace(
    study.PRESETS["modular"], modulus=5, width=8, hidden=8, head_size=4, steps=25, every=20, early=4, seeds=(0, 1)
)


@pytest.fixture(scope="module")
def addition():
    return studies.perform("attention", ADDITION)


def test_rows_of_modular_addition_are_dense_at_first_and_end_with_the_last_step(addition):
    assert addition.step.values.tolist() == [0, 2, 4, 20, 25]
    assert addition.QK.sizes == record_sizes(addition, head=2, component=4)
    assert addition.test_accuracy.dims == ("start", "decay", "seed", "row")


def record_sizes(record, **more):
    return {name: record.sizes[name] for name in ("start", "decay", "seed", "row")} | more


def test_starts_decays_and_seeds_of_modular_addition_are_in_their_places(addition):
    first = addition.isel(row=0)
    np.testing.assert_allclose(
        first.QK.sel(start="small"), SETTINGS.small**2 * first.QK.sel(start="usual"), rtol=SINGLE
    )
    np.testing.assert_array_equal(first.QK.isel(decay=0), first.QK.isel(decay=1))
    alone = study.run(dataclasses.replace(ADDITION, seeds=(1,)))
    np.testing.assert_allclose(addition.loss.sel(seed=1), alone.loss.sel(seed=1), rtol=STEPS["loss"])
    squares = sum((addition[name].isel(row=-1) ** 2).sum(("head", "component")) for name in study.WEIGHTS)
    usual = squares.sel(start="usual")  # weights that begin near zero have nothing to lose yet
    assert bool((usual.isel(decay=1) < usual.isel(decay=0)).all())


def test_delays_and_ranks_at_the_moment_of_learning(addition):
    late = addition.copy(deep=True)
    late.loss.values[:] = [1.0, 0.5, 0.01, 0.01, 0.01]
    late.test_accuracy.values[:] = [0.0, 0.0, 0.0, 0.95, 1.0]
    np.testing.assert_array_equal(study.delays(late), np.full(4, 20 / 4))
    wanted = study.effective_rank(late.isel(row=2), "QK").sel(start="usual", decay=1.0)
    np.testing.assert_array_equal(study.fitted_rank(late, "QK", "usual", 1.0), wanted)
    late.test_accuracy.values[:] = 0.0
    assert np.isinf(study.delays(late)).all()


def test_claims_and_figure_of_modular_addition(addition):
    made = study.claims(addition)
    assert made[0].holds
    assert all("odular" in claim.statement for claim in made[1:4])
    assert len(study.draw(addition).axes) == 4
    assert "decay 1" in study.alt(addition)
