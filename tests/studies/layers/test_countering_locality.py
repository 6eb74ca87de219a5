"""Networks, measured numbers and claims of the study, against planted records and the definitions."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch

from ranklens import studies
from ranklens.studies.kit import records
from ranklens.studies.layers import countering_locality as study
from ranklens.training import networks


@pytest.fixture(scope="module")
def record():
    settings = dataclasses.replace(study.PRESETS["tiny"], seeds=(0, 1, 2), epochs=1, test=20)
    return studies.perform("countering_locality", settings)


def test_the_examples_are_those_of_the_settings():
    settings = dataclasses.replace(study.PRESETS["digits"], train=3, test=4)
    made = study.task(settings, 48, 0)
    assert made.patches == ((0, 0, 8, 8), (0, 56, 8, 8))
    assert made.train.pictures(torch.arange(3)).shape == (3, 1, 8, 64)
    assert (len(made.train), len(made.test)) == (3, 4)
    paths = study.task(dataclasses.replace(settings, task="pathfinder", canvas=(32, 32), patch=5), 3, 0)
    assert paths.patches.size == 5
    assert paths.train.pictures(torch.arange(3)).shape == (3, 1, 32, 32)


def test_the_network_is_the_one_that_is_named():
    settings = study.PRESETS["digits"]
    examples = study.task(dataclasses.replace(settings, train=4, test=4), 48, 0).train
    model = study.network(settings, examples, 0)
    expected = networks.strided_cnn(1, 0)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), expected.parameters(), strict=True))
    kernels = [m for m in model if isinstance(m, torch.nn.Conv2d)]
    assert [(m.out_channels, m.stride[0]) for m in kernels] == [(16, 2), (32, 2), (64, 2), (64, 1), (64, 1), (64, 1)]
    of_paper = study.network(study.PRESETS["paper"], examples, 0)
    assert sum(p.numel() for p in of_paper.parameters()) == 11_177_025 - 2 * 3136  # one channel instead of three


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"network": "mlp"}, "no network 'mlp'; choose columns, cnn, resnet18 or resnet34"),
        ({"task": "sort"}, "no task 'sort'; choose same_class or pathfinder"),
        ({"weights": (0.0,)}, "weights is .0.0,.; the first must be 0, and at least one must follow"),
        ({"weights": (0.5, 1.0)}, "weights is .0.5, 1.0.; the first must be 0"),
    ],
)
def test_settings_that_cannot_be_run_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        study.run(dataclasses.replace(study.PRESETS["tiny"], **change))


def test_claims_are_medians_of_paired_differences(record):
    planted = record.copy(deep=True)
    planted.test.loc[{"range": 16, "weight": 0.0}] = [0.5, 0.6, 0.7]
    planted.test.loc[{"range": 16, "weight": 1.0}] = [0.6, 0.65, 0.85]  # gains .1, .05, .15
    planted.test.loc[{"range": 0, "weight": 0.0}] = [0.9, 0.9, 0.9]
    planted.test.loc[{"range": 0, "weight": 1.0}] = [0.88, 0.86, 0.89]  # losses .02, .04, .01
    planted.share.loc[{"range": 16, "weight": 0.0}] = 0.2
    planted.share.loc[{"range": 16, "weight": 1.0}] = 0.5
    of_penalty, gained, lost, by_distance, dependence = study.claims(planted)[1:]
    assert "product" in of_penalty.statement
    assert gained.statement.startswith("16 columns apart: test accuracy")
    assert gained.measured == pytest.approx(0.1)
    assert lost.statement.startswith("0 columns apart: test accuracy")
    assert lost.measured == pytest.approx(0.02)
    assert by_distance.measured == pytest.approx(0.3)
    assert "depends on both patches jointly" in dependence.statement
    assert dependence.measured == pytest.approx(2.5)


@pytest.mark.parametrize(
    ("name", "place", "fails"),
    [
        ("bilinear", {"form": 4}, [0]),
        ("exact", {"function": "sum"}, [1]),
        ("test", {"range": 16, "weight": 1.0, "seed": 2}, [2]),
        ("test", {"range": 0, "weight": 1.0, "seed": 2}, [3]),
        ("test", {"range": 0, "weight": 0.0, "seed": 1}, [3, 4]),
        ("share", {"range": 16, "weight": 0.0, "seed": 1}, [5]),
    ],
)
def test_one_number_that_is_nan_fails_the_claims_that_use_it(record, name, place, fails):
    poisoned = record.copy(deep=True)
    poisoned.test.loc[{"weight": 0.0}] = 0.5
    poisoned.test.loc[{"range": 0}] = 0.9
    poisoned.test.loc[{"range": 16, "weight": 1.0}] = 0.8
    poisoned.share.loc[{"weight": 0.0}] = 0.2
    poisoned.share.loc[{"weight": 1.0}] = 0.5
    assert all(claim.holds for claim in study.claims(poisoned))
    poisoned[name].loc[place] = math.nan
    assert [k for k, claim in enumerate(study.claims(poisoned)) if not claim.holds] == fails


def test_the_penalty_is_compared_with_the_best_value_of_each_control():
    settings = dataclasses.replace(
        study.PRESETS["tiny"], network="columns", decays=(0.01, 0.1), dropouts=(0.5,), epochs=1, test=20
    )
    planted = studies.perform("countering_locality", settings)
    assert planted.decay_test.shape == (2, 1)
    assert [len(study.draw(one).axes) for one in (planted, planted.drop_dims("decay"))] == [8, 8]
    planted.test.loc[{"range": 16, "weight": 0.0}] = 0.5
    planted.test.loc[{"range": 16, "weight": 1.0}] = 0.8
    planted.decay_test[:] = [[0.55], [0.6]]
    planted.dropout_test[:] = 0.75
    decay, dropout = (claim for claim in study.claims(planted) if "in its place" in claim.statement)
    assert decay.measured == pytest.approx(0.2)
    assert "weight decay (0.01, 0.1; the best of them)" in decay.statement
    assert decay.holds
    assert dropout.measured == pytest.approx(0.05)
    assert not dropout.holds
    planted.decay_test[0] = math.nan
    [decay, _] = (claim for claim in study.claims(planted) if "in its place" in claim.statement)
    assert not decay.holds


def test_controls_are_trained_without_the_penalty_at_the_last_range(monkeypatch):
    settings = dataclasses.replace(study.PRESETS["tiny"], network="columns", decays=(0.01, 0.1), dropouts=(0.5,))
    seen = []
    true = study.train_one

    def one(how, reach, weight, seed):
        seen.append((how.decay, how.dropout, reach, weight, seed))
        return true(dataclasses.replace(how, epochs=1, test=20), reach, weight, seed)

    monkeypatch.setattr(study, "train_one", one)
    study.run(dataclasses.replace(settings, epochs=1, test=20))
    assert seen[-3:] == [(0.01, 0.0, 16, 0.0, 0), (0.1, 0.0, 16, 0.0, 0), (0.0, 0.5, 16, 0.0, 0)]
    assert {row[:2] for row in seen[:-3]} == {(0.0, 0.0)}
    with_decay, with_dropout = (
        dataclasses.replace(settings, **change) for change in ({"decay": 0.1}, {"dropout": 0.5})
    )
    assert study.plan(with_decay, 0.0, 0).decay == 0.1
    examples = study.task(settings, 16, 0).train
    assert [
        isinstance(study.network(how, examples, 0)[-2], torch.nn.Dropout) for how in (with_decay, with_dropout)
    ] == [
        False,
        True,
    ]


def test_with_few_training_pairs_the_plain_network_is_expected_to_fall_to_chance(record):
    falls = {}
    for train in (300, 2000):
        how = records.settings_of(record, study.Settings)
        kept = record.assign_attrs(settings=json.dumps(dataclasses.asdict(dataclasses.replace(how, train=train))))
        falls[train] = study.claims(kept)[4].bound
    assert falls == {300: 0.3, 2000: 0.1}


def test_curves_end_at_what_is_reported(record):
    for name, curve in (("test", "test_curve"), ("train", "train_curve")):
        assert np.array_equal(record[name].values, record[curve].isel(epoch=-1).values)
    assert (record.epochs == 1).all()
    assert record.profile.dims == ("weight", "seed", "distance")
    assert record.distance.values.tolist() == [0, 8, 16]
    for name in ("share", "random_share", "profile", "random_profile"):
        assert ((record[name] >= 0) & (record[name] <= 1)).all()


def test_published_settings():
    paper, paths = study.PRESETS["paper"], study.PRESETS["pathfinder"]
    assert (paper.images, paper.canvas, paper.ranges) == ("cifar10", (224, 224), (0, 40, 80, 120, 160))
    assert (paper.weights, paper.train, paper.test) == ((0.0, 0.1, 1.0), 5000, 10_000)
    assert (paper.lr, paper.batch_size, paper.epochs, paper.stop, paper.every) == (0.01, 64, 150, 20, 1)
    assert (paths.canvas, paths.ranges, paths.weights) == ((150, 150), (3, 5, 7, 9), (0.0, 3.0, 9.0))
    assert (paths.train, paths.test, paths.patch, paths.network) == (10_000, 10_000, 2, "resnet18")
