"""The study's parts: published initial states and errors, conserved differences, the search, the bound on repair."""

import numpy as np
import pytest
import torch

import ranklens as rl
from ranklens import studies
from ranklens.studies.beyond import state_space as study

# A gap between states that was read from numbers of float64.
GAP = 1e-6

SETTINGS = study.PRESETS["tiny"]
# Published extrapolation errors of single seeds, on the baseline and with the special sequence, by the number of states
# and by the seed of numpy's older generator, from which the initial states were drawn uniformly.
SINGLE = [
    ((10, 242), (0.0011832, 0.0491806)),
    pytest.param((20, 342), (0.0072811, 0.0350105), marks=pytest.mark.slow),
]
# The published flows were integrated with relative errors of 1e-8 of states whose differences are smaller than that.
OF_THE_SOURCE = 2e-3


@pytest.mark.parametrize(("case", "errors"), SINGLE)
def test_published_initial_states_give_the_published_errors(case, errors, monkeypatch):
    states, seed = case
    settings = study.PRESETS["laptop"]
    k = settings.states.index(states)
    drawn = np.random.RandomState(seed).rand(states)
    A = torch.from_numpy(settings.stds[k] * np.sort(drawn)[::-1])
    A[1] = A[0] - settings.gaps[k]
    monkeypatch.setattr(study, "start", lambda *_: rl.StateSpace(A))
    for data, error in zip(study.DATA[:2], errors, strict=True):
        inputs = study.sequences(settings.lengths[k], data, np.zeros(0))
        model, _ = study.train(settings, k, inputs, seed, searching=True)
        found = model.extrapolation_error(study.teacher(states), settings.delays)
        assert float(found) == pytest.approx(error, rel=OF_THE_SOURCE)


def test_sequences_show_the_delays_that_their_names_say():
    length = 7
    teacher = rl.StateSpace([0.5])
    shown = {
        data: teacher.outputs(study.sequences(length, data, np.eye(length)[0]))[:, -1].log2().neg().round().tolist()
        for data in study.DATA
    }
    assert shown == {
        "baseline": [6],
        "special": [6, 1],
        "found": [6, 6],
        "special, repaired": [6, 1, 2],
        "found, repaired": [6, 6, 1, 2, 3, 4, 5],
    }


def test_the_teacher_responds_like_every_student_at_delay_zero():
    h = study.teacher(10).impulse_response(5)
    assert h.tolist() == [10, 1, 1, 1, 1]
    assert float(study.start(study.PRESETS["laptop"], 0, 3).impulse_response(1)) == 10


def test_starts_are_ordered_with_the_second_close_to_the_first():
    settings = study.PRESETS["laptop"]
    for k, gap in enumerate(settings.gaps):
        A = study.start(settings, k, 0).A
        assert float(A[0] - A[1]) == pytest.approx(gap, rel=GAP)
        assert bool((A[2:].diff() < 0).all())
        assert 0 < float(A[-1]) < float(A[0]) < settings.stds[k]


def test_differences_of_powers_are_conserved_by_the_exact_solution_and_by_nothing_else():
    before = torch.tensor([0.4, 0.3, 0.2], dtype=torch.float64)
    after = (before**-4 - 10.0) ** (-1 / 4)
    assert study.drift(rl.StateSpace(before), rl.StateSpace(after), 6) < 1e-12
    assert study.drift(rl.StateSpace(before), rl.StateSpace(before + 0.1), 6) > 0.1


@pytest.mark.parametrize("excess", [1e-4, 1e-2])
def test_the_bound_on_repair_holds_for_students_that_nearly_fit(excess):
    """One large state and others that are as large as the loss allows, with signs that add up."""
    states, delays = 5, 12
    A = torch.cat([torch.tensor([1.0 - excess]), excess**0.5 * torch.tensor([0.5, -0.4, 0.3, 0.1])]).double()
    model = rl.StateSpace(A)
    inputs = study.sequences(7, "special, repaired", np.zeros(0))
    task = rl.problems.Sequences.labelled(inputs, study.teacher(states), model)
    error = float(model.extrapolation_error(study.teacher(states), delays))
    bound = study.repaired_bound(float(task.loss(A)), len(inputs), states, 6, delays)
    assert 0 < error <= bound < np.inf


def test_the_search_never_ends_below_the_worst_impulse():
    found, one_hot = study.search(SETTINGS, 0)
    assert np.linalg.norm(found) == pytest.approx(1)
    model, record = study.train(SETTINGS, 0, np.stack([np.eye(5)[0], found]), SETTINGS.search_seed, searching=True)
    assert float(record.loss[-1]) <= SETTINGS.until_loss
    assert float(model.extrapolation_error(study.teacher(3), SETTINGS.delays)) >= one_hot.max()


def test_a_student_of_one_state_has_memory_of_rank_one():
    assert float(study.memory_rank(rl.StateSpace([0.7]), 12)) == pytest.approx(1)
    two = rl.StateSpace([0.9, -0.9])
    assert float(study.diagonal_rank(two)) == pytest.approx(2)
    assert float(study.memory_rank(two, 12)) == pytest.approx(2)


def test_other_seeds_than_those_of_the_search_count():
    for settings in study.PRESETS.values():
        assert settings.search_seed not in settings.seeds
    assert len(studies.preset("state_space", "laptop").seeds) >= 5
