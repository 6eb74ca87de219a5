"""Training goes on exactly where it was stopped, alone and on several devices."""

import dataclasses
import json
import os
import subprocess
import sys
import textwrap

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

import ranklens as rl
from ranklens import seeds
from ranklens.studies.layers import countering_locality
from ranklens.training import resumable
from ranklens.training.resumable import Examples, Plan

PLAN = Plan(
    epochs=4, stop=0, batch_size=8, lr=0.05, weight=0.5, every=2, fraction=1.0, watch=2, seed=3, accelerator="cpu"
)
# Shares of correct answers are sums divided by counts.
ALL = 1 - 1e-9
PAIR = ((0, 0, 6, 2), (0, 4, 6, 2))


def made(count=40, seed=0):
    x = torch.randn(count, 1, 6, 6, generator=seeds.stream(seed, "pictures of a test"))
    return Examples(lambda rows: x[rows], (x[:, 0, 0, 0] * x[:, 0, 0, 5] > 0).long())


def network():
    with seeds.initial_values(0, "network of a test"):
        return nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 1)
        )


class Killed(Exception):
    pass


def killed_at(epoch):
    seen = []

    def report(line):
        seen.append(line)
        if len(seen) == epoch:
            raise Killed

    return report


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@pytest.mark.parametrize("epoch", [1, 3])
@pytest.mark.parametrize("patches", [PAIR, rl.nn.PatchPairs(2)], ids=["boxes", "drawn"])
def test_training_that_was_killed_ends_the_same(tmp_path, epoch, patches):
    whole, curves = resumable.train(network(), (made(), made(20, 1)), patches, PLAN)
    path = tmp_path / "run.safetensors"
    with pytest.raises(Killed):
        resumable.train(network(), (made(), made(20, 1)), patches, PLAN, checkpoint=path, report=killed_at(epoch))
    again, continued = resumable.train(network(), (made(), made(20, 1)), patches, PLAN, checkpoint=path)
    assert same(whole, again)
    assert continued == curves
    assert [file.name for file in tmp_path.iterdir()] == ["run.safetensors"]
    finished, unchanged = resumable.train(
        network(), (made(), made(20, 1)), patches, PLAN, checkpoint=path, report=killed_at(1)
    )  # nothing is left to do
    assert same(whole, finished)
    assert unchanged == curves


def test_checkpoints_of_other_settings_are_refused(tmp_path):
    path = tmp_path / "run.safetensors"
    resumable.train(network(), (made(), made()), PAIR, dataclasses.replace(PLAN, epochs=1), checkpoint=path)
    with pytest.raises(ValueError, match="was written with"):
        resumable.train(network(), (made(), made()), PAIR, PLAN, checkpoint=path)


def test_checkpoints_that_do_not_name_later_settings_go_on_with_their_defaults(tmp_path):
    path = tmp_path / "run.safetensors"
    one = dataclasses.replace(PLAN, epochs=1)
    model, curves = resumable.train(network(), (made(), made()), PAIR, one, checkpoint=path)
    with safe_open(path, framework="pt") as stored:
        about = json.loads(stored.metadata()["training"])
        tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 (it is no mapping)
    assert [about["plan"].pop(name) for name in resumable.LATER] == [0, 0, 1]
    save_file(tensors, path, metadata={"training": json.dumps(about)})
    again, found = resumable.train(network(), (made(), made()), PAIR, one, checkpoint=path)
    assert found == curves
    assert same(model, again)
    with pytest.raises(ValueError, match="was written with"):
        resumable.train(network(), (made(), made()), PAIR, dataclasses.replace(one, decay=0.1), checkpoint=path)


def test_weight_decay_adds_the_parameters_to_their_gradient(tolerance):
    """The first step of SGD, written out: theta - lr (gradient + decay theta)."""
    examples, start = (made(8), made(8, 1)), list(network().parameters())
    one = dataclasses.replace(PLAN, epochs=1, weight=0.0)
    plain, decayed = (
        list(resumable.train(network(), examples, PAIR, plan)[0].parameters())
        for plan in (one, dataclasses.replace(one, decay=0.1))
    )
    for begin, a, b in zip(start, plain, decayed, strict=True):
        assert torch.allclose(b, a - one.lr * 0.1 * begin, rtol=0, atol=tolerance["float32"])
        assert not torch.equal(a, b) or not bool(begin.any())
    with pytest.raises(ValueError, match="decay -1"):
        dataclasses.replace(PLAN, decay=-1.0)


def test_dropout_repeats_too(tmp_path):
    def dropped():
        return nn.Sequential(*network()[:-1], nn.Dropout(0.5), network()[-1])

    plan, path = dataclasses.replace(PLAN, weight=0.0), tmp_path / "run.safetensors"
    whole, curves = resumable.train(dropped(), (made(), made(20, 1)), PAIR, plan)
    with pytest.raises(Killed):
        resumable.train(dropped(), (made(), made(20, 1)), PAIR, plan, checkpoint=path, report=killed_at(2))
    again, continued = resumable.train(dropped(), (made(), made(20, 1)), PAIR, plan, checkpoint=path)
    assert same(whole, again)
    assert continued == curves
    plain, _ = resumable.train(network(), (made(), made(20, 1)), PAIR, plan)
    assert not all(torch.equal(a, b) for a, b in zip(whole.parameters(), plain.parameters(), strict=True))


def test_curves_are_what_they_say():
    model, curves = resumable.train(network(), (made(), made(20, 1)), PAIR, PLAN)
    assert curves.epochs == [1, 3, 4]
    assert len(curves.loss) == len(curves.train) == 4
    assert curves.test[-1] == resumable.accuracy(model, made(20, 1))
    right = (resumable.outputs(model, made(20, 1)) > 0) == (made(20, 1).labels > 0)
    assert curves.test[-1] == float(right.double().mean())


def test_it_stops_some_epochs_after_all_is_answered():
    easy = Examples(made().pictures, torch.ones(40, dtype=torch.long))
    plan = dataclasses.replace(PLAN, epochs=50, stop=3, lr=0.5, weight=0.0)
    _, curves = resumable.train(network(), (easy, easy), PAIR, plan)
    assert len(curves.loss) < 50
    assert len(curves.loss) == next(k + 1 for k, share in enumerate(curves.train) if share >= ALL) + 3
    assert curves.epochs[-1] == len(curves.loss)


def test_pictures_of_a_batch_that_is_left_out_are_not_counted():
    """Of 41 pictures in batches of 8 one is left; the others are all answered, and training stops."""
    easy = Examples(made(41).pictures, torch.ones(41, dtype=torch.long))
    plan = dataclasses.replace(PLAN, epochs=50, stop=3, lr=0.5, weight=0.0)
    _, curves = resumable.train(network(), (easy, easy), PAIR, plan)
    assert len(curves.loss) < 50
    assert curves.train[-1] == 1.0


def test_plans_that_train_nothing_are_refused(tmp_path):
    for change, message in (
        ({"batch_size": 1}, "batch_size is 1 for 1 devices"),
        ({"devices": 8}, "batch_size is 8 for 8 devices"),
        ({"watch": 0}, "watch 0"),
        ({"epochs": 0}, "epochs 0"),
    ):
        with pytest.raises(ValueError, match=message):
            dataclasses.replace(PLAN, **change)
    with pytest.raises(ValueError, match="there are 1 training images"):
        resumable.train(network(), (made(1), made()), PAIR, PLAN)
    mixed = dataclasses.replace(PLAN, precision="16-mixed")
    with pytest.raises(ValueError, match="scale of gradients"):
        resumable.train(network(), (made(), made()), PAIR, mixed, checkpoint=tmp_path / "x")


def test_checkpoints_are_named_by_all_that_matters():
    tiny = dataclasses.replace(countering_locality.PRESETS["tiny"], checkpoints="folder")
    names = {
        countering_locality.checkpoint(dataclasses.replace(tiny, **change), reach, weight, seed)
        for change in ({}, {"lr": 0.5}, {"train": 65}, {"images": "mnist"})
        for reach in (0, 16)
        for weight in (0.0, 1.0)
        for seed in (0, 1)
    }
    assert len(names) == 32
    others = dataclasses.replace(tiny, weights=(0.0, 5.0), seeds=(0, 7), ranges=(0,))  # of other points
    assert countering_locality.checkpoint(others, 0, 0.0, 0) in names
    assert countering_locality.checkpoint(countering_locality.PRESETS["tiny"], 0, 0.0, 0) is None


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "64-true"])
def test_other_precisions_are_run_by_fabric(precision):
    pytest.importorskip("lightning_fabric", reason="the extra ranklens[train] is not installed")
    model, curves = resumable.train(
        network(), (made(), made(20, 1)), PAIR, dataclasses.replace(PLAN, precision=precision)
    )
    assert all(bool(torch.isfinite(p).all()) for p in model.parameters())
    assert len(curves.loss) == 4


def test_fabric_in_single_precision_is_the_plain_loop(monkeypatch):
    lightning = pytest.importorskip("lightning_fabric", reason="the extra ranklens[train] is not installed")
    alone, curves = resumable.train(network(), (made(), made(20, 1)), PAIR, PLAN)
    monkeypatch.setattr(resumable, "_OneCpu", lambda: lightning.Fabric(accelerator="cpu", devices=1))
    fabric, others = resumable.train(network(), (made(), made(20, 1)), PAIR, PLAN)
    assert same(alone, fabric)
    assert curves == others


def test_several_devices_without_fabric_are_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "lightning_fabric", None)
    with pytest.raises(ImportError, match=r"pip install 'ranklens\[train\]'"):
        resumable.train(network(), (made(), made()), PAIR, dataclasses.replace(PLAN, devices=2))


DISTRIBUTED = """
    import dataclasses, functools, sys, torch
    from torch import nn
    from ranklens import seeds
    from ranklens.training import resumable
    from ranklens.training.resumable import Examples, Plan

    DEVICES = 1e-5  # float32 sums over two devices are added in another order than over one

    def look(x, rows):
        return x[rows]

    def made(count, seed):
        x = torch.randn(count, 1, 6, 6, generator=seeds.stream(seed, "pictures"))
        return Examples(functools.partial(look, x), (x[:, 0, 0, 0] * x[:, 0, 0, 5] > 0).long())

    def network():
        with seeds.initial_values(0, "network"):
            return nn.Sequential(nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(64, 1))

    if __name__ == "__main__":
        torch.set_num_threads(1)
        plan = Plan(3, 0, 8, 0.05, 0.0, 2, 1.0, 2, 3)
        pair = ((0, 0, 6, 2), (0, 4, 6, 2))
        found = []
        for weight in (0.0, 1.0):
            for devices in (1, 2):
                how = dataclasses.replace(plan, weight=weight, devices=devices)
                model, curves = resumable.train(network(), (made(40, 0), made(20, 1)), pair, how)
                found.append((list(model.parameters()), curves))
        (alone, a), (shared, b), *_, (both, c) = found
        assert all(torch.allclose(x, y, atol=DEVICES) for x, y in zip(alone, shared))
        assert max(abs(x - y) for x, y in zip(a.loss, b.loss)) < DEVICES and a.train == b.train and a.test == b.test
        assert all(bool(torch.isfinite(x).all()) for x in both) and len(c.loss) == 3
        print("same")
"""


@pytest.mark.slow
def test_two_devices_train_like_one(tmp_path):
    """Without a penalty, whose patches are exchanged within a device, and without batch-norm, to rounding."""
    pytest.importorskip("lightning_fabric", reason="the extra ranklens[train] is not installed")
    script = tmp_path / "two.py"
    script.write_text(textwrap.dedent(DISTRIBUTED))
    command = [sys.executable, "-W", "ignore", str(script)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert run.stdout.strip().endswith("same"), run.stderr


@pytest.mark.slow
def test_pathfinder_is_trained_on_too(tmp_path):
    settings = dataclasses.replace(
        countering_locality.PRESETS["tiny"],
        task="pathfinder",
        canvas=(32, 32),
        ranges=(5,),
        network="resnet18",
        epochs=1,
        train=8,
        test=8,
        checkpoints=os.fspath(tmp_path),
    )
    record = countering_locality.run(settings)
    assert len(list(tmp_path.iterdir())) == 2  # one per weight
    assert bool((record.test >= 0).all())
    assert countering_locality.run(settings).identical(record)


def test_the_penalty_may_be_left_out_of_the_last_epochs():
    """Until then training is equal to one with the penalty; afterwards it goes on as one without."""
    plan = dataclasses.replace(PLAN, penalized=0.5, watch=1)
    assert [plan.weight_of(epoch) for epoch in range(4)] == [PLAN.weight, PLAN.weight, 0.0, 0.0]
    examples = (made(), made(20, 1))
    _, whole = resumable.train(network(), examples, PAIR, dataclasses.replace(PLAN, watch=1))
    _, left = resumable.train(network(), examples, PAIR, plan)
    _, short = resumable.train(network(), examples, PAIR, dataclasses.replace(plan, penalized=1.0, epochs=2))
    assert left.loss[:2] == whole.loss[:2] == short.loss
    assert left.loss[3] != whole.loss[3]
    with pytest.raises(ValueError, match=r"penalized is 1\.5"):
        dataclasses.replace(plan, penalized=1.5)


def test_the_learning_rate_may_fall_along_a_cosine():
    """It begins at its full size, is half of it in the middle of the training, and is small in the last epoch."""
    plan = dataclasses.replace(PLAN, cosine=True)
    rates = [plan.rate(epoch) for epoch in range(plan.epochs)]
    assert rates[0] == plan.lr
    assert rates[2] == pytest.approx(plan.lr / 2)
    assert rates[3] == pytest.approx(plan.lr * (1 - 2**-0.5) / 2)
    held = dataclasses.replace(plan, epochs=8, hold=0.5)
    assert [held.rate(epoch) for epoch in range(4)] == [plan.lr] * 4
    assert [held.rate(epoch) for epoch in range(4, 8)] == pytest.approx(rates)
    with pytest.raises(ValueError, match="hold is 1"):
        dataclasses.replace(plan, hold=1.0)
    assert [PLAN.rate(epoch) for epoch in range(4)] == [PLAN.lr] * 4
    for one in (plan, PLAN):
        model, _ = resumable.train(network(), (made(), made(20, 1)), PAIR, one)
        found = [parameter.detach().clone() for parameter in model.parameters()]
        if one is plan:
            along = found
    assert not all(torch.equal(a, b) for a, b in zip(along, found, strict=True))
