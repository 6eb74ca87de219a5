"""Callbacks for trainers, in trainers that call them as the real ones do."""

import subprocess
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import nn

import ranklens as rl
from ranklens.nn import callbacks

pytestmark = pytest.mark.usefixtures("initial_values")


class Parent:
    """The base class of callbacks in a trainer."""

    def on_train_start(self, *_): ...

    def on_step_end(self, *_, **__): ...


@pytest.fixture
def libraries(monkeypatch):
    """Stand-ins for the two libraries, which are not installed here."""
    for package, base in (("lightning", ""), ("lightning.pytorch", "Callback"), ("transformers", "TrainerCallback")):
        module = ModuleType(package)
        setattr(module, base, Parent)
        monkeypatch.setitem(sys.modules, package, module)
    for name in callbacks.BASES:
        monkeypatch.delitem(vars(callbacks), name, raising=False)
    yield
    for name in callbacks.BASES:
        vars(callbacks).pop(name, None)


@pytest.mark.usefixtures("libraries")
def test_lightning():
    model, told = nn.Linear(4, 3), []
    logger = SimpleNamespace(log_metrics=lambda metrics, step: told.append((step, metrics)))
    trainer = SimpleNamespace(loggers=[logger], global_step=0)
    made = rl.nn.callbacks.Lightning(every=2, share=1.0)
    assert isinstance(made, Parent)
    made.on_train_start(trainer, model)
    for batch in range(12):
        trainer.global_step = (batch + 1) // 2  # two batches per step of the optimizer
        made.on_train_batch_end(trainer, model, None, None, batch)
    made.on_train_end(trainer, model)
    assert made.monitor.steps == 6
    assert [step for step, _ in told] == [2, 4, 6]
    assert told[0][1]["rank/weight/effective_rank"] > 1


@pytest.mark.usefixtures("libraries")
def test_hugging_face():
    model, state = nn.Sequential(nn.Linear(4, 3)), SimpleNamespace(global_step=0, log_history=[])
    made = rl.nn.callbacks.HuggingFace(every=2, share=1.0, activations=["0"])
    made.on_train_begin(None, state, None, model=model, tokenizer=None)
    for step in range(1, 6):
        model(torch.ones(2, 4))
        state.global_step = step
        made.on_step_end(None, state, None, model=model)
    made.on_train_end(None, state, None)
    assert state.log_history[0]["rank/0.weight/effective_rank"] > 1
    assert state.log_history[-1]["rank/0/rows"] > 1
    assert not model[0]._forward_hooks


@pytest.mark.usefixtures("libraries")
def test_a_log_of_ones_own_takes_the_place_of_the_loggers():
    model, told = nn.Linear(4, 3), []
    made = rl.nn.callbacks.HuggingFace(every=1, share=1.0, log=lambda found, step: told.append(step))
    state = SimpleNamespace(global_step=0, log_history=[])
    made.on_train_begin(None, state, None, model=model)
    state.global_step = 1
    made.on_step_end(None, state, None)
    made.on_train_end(None, state, None)
    assert told == [1]
    assert state.log_history == []


def test_other_names_and_missing_libraries_are_refused(monkeypatch):
    with pytest.raises(AttributeError, match="it has Lightning, HuggingFace"):
        rl.nn.callbacks.Keras  # noqa: B018
    for package in ("transformers", "lightning", "lightning.pytorch", "pytorch_lightning"):
        monkeypatch.setitem(sys.modules, package, None)
    for name in callbacks.BASES:
        with pytest.raises(ImportError, match=rf"rl\.nn\.callbacks\.{name} needs the package"):
            getattr(callbacks, name)


def test_looking_at_the_package_imports_no_trainer():
    code = "import sys, ranklens as rl; rl.nn.callbacks; print({'transformers', 'lightning'} & set(sys.modules))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "set()"
