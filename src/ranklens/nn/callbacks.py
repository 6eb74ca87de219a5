"""Callbacks that run a `RankMonitor` in Lightning and in the Trainer of Hugging Face.

`Lightning` and `HuggingFace` take the arguments of `RankMonitor` except the model, which the trainer gives. Their
attribute `monitor` is the `RankMonitor` from the beginning of the training on. The library is imported when its class
is looked up, so neither is needed otherwise. The measures go to the loggers of a Lightning trainer, and to the history
in the state of a Hugging Face trainer, under names that begin with "rank/"; or, if it is given, to the function `log`.

    trainer = lightning.Trainer(callbacks=[rl.nn.callbacks.Lightning(every=500, activations=["encoder"])])
    trainer = transformers.Trainer(model, args, callbacks=[rl.nn.callbacks.HuggingFace(every=500)])
"""

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from torch import nn

from ranklens.nn.rank_monitor import Log, RankMonitor

# Name before the names of measures in a logger.
PREFIX = "rank/"
# Packages that have the base class of a callback, in order of preference, and the name of that class.
BASES = {
    "Lightning": (("lightning.pytorch", "pytorch_lightning"), "Callback"),
    "HuggingFace": (("transformers",), "TrainerCallback"),
}


class Run:
    """A `RankMonitor` that is made when a training begins, and asked once per step of the optimizer.

    Args:
        log: a function that is called with the latest measures and the step after each profile; None takes what
            the trainer has.
        **options: more arguments of `RankMonitor`.

    Attributes:
        monitor: the monitor; None before the training begins.
    """

    def __init__(self, *, log: Log | None = None, **options: object) -> None:
        super().__init__()
        self._own_log, self._options = log, options  # a callback of Lightning has a method `log`
        self.monitor: RankMonitor | None = None
        self._last = 0

    def begin(self, model: nn.Module, log: Log, step: int) -> None:
        """Make the monitor.

        Args:
            model: the model that is trained.
            log: where the measures go if no other function was given.
            step: number of steps of the optimizer so far.
        """
        self.monitor = RankMonitor(model, log=self._own_log or log, **self._options)  # type: ignore[arg-type]
        self._last = step

    def step(self, step: int) -> None:
        """Count a step of the optimizer.

        Args:
            step: number of steps so far; a number that was seen before, as with accumulated gradients, is not counted.
        """
        if self.monitor is not None and step != self._last:
            self._last = step
            self.monitor.step()

    def end(self) -> None:
        """Finish the profile in progress, and take the hooks off the model."""
        if self.monitor is not None:
            self.monitor.finish()
            self.monitor.close()


@runtime_checkable
class _Loggers(Protocol):
    """A trainer of Lightning."""

    loggers: list["_Logger"]
    global_step: int


@runtime_checkable
class _Logger(Protocol):
    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None: ...


@runtime_checkable
class _State(Protocol):
    """The state of a Trainer of Hugging Face."""

    global_step: int
    log_history: list[dict[str, float]]


class _LightningHooks(Run):
    """Callback of Lightning that runs a `RankMonitor`; see `ranklens.nn.callbacks`."""

    def on_train_start(self, trainer: _Loggers, pl_module: nn.Module) -> None:
        """Make the monitor, whose measures go to the loggers of the trainer."""

        def log(found: Mapping[str, float], _: int) -> None:
            for logger in trainer.loggers:
                logger.log_metrics(_prefixed(found), step=trainer.global_step)

        self.begin(pl_module, log, trainer.global_step)

    def on_train_batch_end(self, trainer: _Loggers, *_: object, **__: object) -> None:
        """Count a step of the optimizer."""
        self.step(trainer.global_step)

    def on_train_end(self, *_: object) -> None:
        """Finish."""
        self.end()


class _HuggingFaceHooks(Run):
    """Callback of the Trainer of Hugging Face that runs a `RankMonitor`; see `ranklens.nn.callbacks`.

    The measures are added to the history of the trainer's state, which its checkpoints hold too.
    """

    def on_train_begin(self, args: object, state: _State, control: object, *, model: nn.Module, **_: object) -> None:
        """Make the monitor, whose measures go to the history of the trainer's state."""

        def log(found: Mapping[str, float], _: int) -> None:
            state.log_history.append({**_prefixed(found), "step": state.global_step})

        self.begin(model, log, state.global_step)

    def on_step_end(self, args: object, state: _State, control: object, **_: object) -> None:
        """Count a step of the optimizer."""
        self.step(state.global_step)

    def on_train_end(self, *_: object, **__: object) -> None:
        """Finish."""
        self.end()


if TYPE_CHECKING:
    Lightning = _LightningHooks
    HuggingFace = _HuggingFaceHooks

_HOOKS: dict[str, type[Run]] = {"Lightning": _LightningHooks, "HuggingFace": _HuggingFaceHooks}


def _prefixed(found: Mapping[str, float]) -> dict[str, float]:
    """Return measures under the names that they have in a logger."""
    return {f"{PREFIX}{name}": value for name, value in found.items()}


def __getattr__(name: str) -> type[Run]:
    """Return the class of a callback, which is made when it is first looked up.

    Raises:
        AttributeError: for any other name.
        ImportError: if the library is not installed.
    """
    if name not in BASES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(BASES)}")
    packages, base = BASES[name]
    for package in packages:
        try:
            parent = getattr(import_module(package), base)
        except ImportError:
            continue
        hooks = _HOOKS[name]
        made = type(name, (hooks, parent), {"__doc__": hooks.__doc__, "__module__": __name__})
        globals()[name] = made
        return made
    raise ImportError(f"rl.nn.callbacks.{name} needs the package {packages[0].split('.')[0]}; install it by pip")
