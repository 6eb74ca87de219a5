"""Training with the locality penalty that is saved after every epoch and goes on exactly where it was stopped.

This loop differs from `training.loop`: it counts epochs, not steps, stops some epochs after all training images are
classified correctly, writes checkpoints, and runs on one or several devices.
"""

import copy
import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, distributed, nn

from ranklens import seeds
from ranklens.dynamics.record import numpy
from ranklens.files import writing
from ranklens.nn.locality_penalty import LocalityPenalty
from ranklens.nn.regions import Pair, Sampler

# Momentum of SGD: the usual value.
MOMENTUM = 0.9
# Number of images that are evaluated together after training: bounds the memory for activations.
AT_ONCE = 500
# Shares of correct answers are float32 sums divided by counts; a share this close to 1 is 1.
ALL = 1 - 1e-9

# Settings of a plan that earlier checkpoints do not name, with the values that these were trained with.
LATER = {"decay": 0.0, "hold": 0.0, "penalized": 1.0}


@dataclass(frozen=True)
class Examples:
    """Images that are made when they are needed, and one label each.

    Attributes:
        pictures: maps (k,) row numbers to (k, channels, height, width) images. For training on several devices it is
            sent to other processes, so it must be picklable, which a lambda is not.
        labels: (count,) labels, 1 or 0.
    """

    pictures: Callable[[Tensor], Tensor]
    labels: Tensor

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.labels)


@dataclass(frozen=True)
class Plan:
    """Settings of a training run, apart from the model and the data.

    Attributes:
        epochs: largest number of epochs, at least 1.
        stop: number of further epochs after the first epoch in which all training images were classified correctly;
            then training ends, if not before at `epochs`. 0 always trains for `epochs`.
        batch_size: number of images per step, over all devices together; at least two per device.
        lr: learning rate of SGD with momentum 0.9, at the beginning.
        cosine: whether the learning rate falls to zero along half a period of a cosine; otherwise it is constant.
        weight: weight of the locality penalty.
        every: number of steps from one evaluation of the penalty to the next.
        fraction: share of each batch on which the penalty is evaluated.
        watch: number of epochs from one measurement of the test accuracy to the next. The training does not depend on
            these measurements.
        seed: seed of the batches and of the patches.
        accelerator: "cpu", "cuda", or another name that lightning-fabric accepts.
        devices: number of devices.
        precision: precision that lightning-fabric accepts: "32-true", "bf16-mixed" and others.
        decay: weight decay of SGD: this number times the parameters is added to their gradient.
        hold: share of the epochs before the fall of the learning rate begins, from 0 to below 1.
        penalized: share of the epochs, from the first one on, in which the penalty is added to the loss, from 0 to 1.

    Raises:
        ValueError: for a batch of fewer than two images per device, or for a number of epochs, devices or epochs
            between measurements below 1, for a negative `stop` or `decay`, or a `hold` or `penalized` that is out of
            range.
    """

    epochs: int
    stop: int
    batch_size: int
    lr: float
    weight: float
    every: int
    fraction: float
    watch: int
    seed: int
    accelerator: str = "cpu"
    devices: int = 1
    precision: str = "32-true"
    cosine: bool = False
    decay: float = 0.0
    hold: float = 0.0
    penalized: float = 1.0

    def rate(self, epoch: int) -> float:
        """Return the learning rate of an epoch.

        With `cosine`, the rate of epoch t of T is lr (1 + cos(pi u)) / 2, where u = (t / T - hold) / (1 - hold), or 0
        before the fall.

        Args:
            epoch: number of the epoch, from 0.
        """
        if not self.cosine:
            return self.lr
        fallen = max(epoch / self.epochs - self.hold, 0.0) / (1 - self.hold)
        return self.lr * (1 + math.cos(math.pi * fallen)) / 2

    def weight_of(self, epoch: int) -> float:
        """Return the weight of the penalty in an epoch: `weight` in the first ones, and 0 after `penalized` of them.

        Args:
            epoch: number of the epoch, from 0.
        """
        return self.weight if epoch < round(self.penalized * self.epochs) else 0.0

    def __post_init__(self) -> None:
        """Refuse settings that train nothing.

        Raises:
            ValueError: as in the description of the class.
        """
        if self.batch_size < 2 * self.devices:
            raise ValueError(f"batch_size is {self.batch_size} for {self.devices} devices; each takes two at least")
        if min(self.epochs, self.watch, self.devices) < 1 or self.stop < 0 or not self.decay >= 0:
            raise ValueError(
                f"epochs {self.epochs}, watch {self.watch}, devices {self.devices}, stop {self.stop}, decay "
                f"{self.decay}: stop and decay are 0 or more, and each of the others 1 or more"
            )
        if not 0 <= self.hold < 1:
            raise ValueError(f"hold is {self.hold}; it is a share of the epochs, from 0 to below 1")
        if not 0 <= self.penalized <= 1:
            raise ValueError(f"penalized is {self.penalized}; it is a share of the epochs, from 0 to 1")


@dataclass
class Curves:
    """Measurements during training: one number per epoch, and the test accuracy after some of the epochs.

    Attributes:
        loss: mean cross entropy of the training images in each epoch, without the penalty.
        train: share of training images that were classified correctly in each epoch, each before its step was taken.
        test: share of test images that are classified correctly, after each of the epochs in `epochs`.
        epochs: numbers of epochs after which `test` was measured, counted from 1. The last one is the last epoch.
    """

    loss: list[float] = dataclasses.field(default_factory=list)
    train: list[float] = dataclasses.field(default_factory=list)
    test: list[float] = dataclasses.field(default_factory=list)
    epochs: list[int] = dataclasses.field(default_factory=list)


@runtime_checkable
class Devices(Protocol):
    """The methods of lightning-fabric's `Fabric` that training calls, which `_OneCpu` has as well.

    Attributes:
        world_size: number of processes.
        global_rank: number of this process, from 0.
        device: device of this process.
    """

    world_size: int
    global_rank: int
    device: torch.device

    def setup(self, model: nn.Module, optimizer: torch.optim.Optimizer, /) -> Any:
        """Return the pair (model, optimizer), moved to the device of this process and wrapped for the precision."""

    def to_device(self, tensor: Tensor, /) -> Tensor:
        """Return a tensor on the device of this process."""

    def backward(self, loss: Tensor, /) -> None:
        """Compute gradients, scaled and averaged over processes as the precision and the strategy need it."""

    def autocast(self) -> AbstractContextManager[None]:
        """Return the context in which forward passes are computed in the chosen precision."""

    def all_reduce(self, tensor: Tensor, /, *, reduce_op: str) -> Any:
        """Return the elementwise sum of a tensor over all processes, equal in all of them; `reduce_op` is "sum"."""


class _OneCpu:
    """Devices for one CPU in single precision, which need no lightning-fabric."""

    world_size, global_rank, device = 1, 0, torch.device("cpu")

    def setup(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[nn.Module, torch.optim.Optimizer]:
        return model, optimizer

    def to_device(self, tensor: Tensor) -> Tensor:
        return tensor

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def autocast(self) -> AbstractContextManager[None]:
        return nullcontext()

    def all_reduce(self, tensor: Tensor, *, reduce_op: str) -> Tensor:
        return tensor


@dataclass(frozen=True)
class _Job:
    """Arguments of a training run, to be sent to other processes."""

    model: nn.Module
    train_set: Examples
    test_set: Examples
    patches: Pair | Sampler
    plan: Plan
    checkpoint: Path | None
    report: Callable[[str], None] | None


@dataclass(frozen=True)
class _Learner:
    """Objects that change during training, and that a checkpoint holds.

    Attributes:
        model: the model itself, whose parameters are saved.
        forward: the model as wrapped for its devices, which computes outputs and shares gradients.
        optimizer: the optimizer of the model's parameters.
        penalty: the locality penalty, with its count of steps and its random stream.
    """

    model: nn.Module
    forward: nn.Module
    optimizer: torch.optim.Optimizer
    penalty: LocalityPenalty


def train(
    model: nn.Module,
    examples: tuple[Examples, Examples],
    patches: Pair | Sampler,
    plan: Plan,
    *,
    checkpoint: Path | None = None,
    report: Callable[[str], None] = lambda _: None,
) -> tuple[nn.Module, Curves]:
    """Train a binary classifier on the cross entropy plus the weighted locality penalty.

    Args:
        model: maps images to one logit each, of shape (batch, 1); it is trained in place.
        examples: training examples and test examples.
        patches: two disjoint regions of the penalty, each a box (top, left, height, width) in pixels, or a boolean mask
            over one image. Or a sampler, such as `rl.nn.PatchPairs`, that draws two boxes.
        plan: the settings of the run.
        checkpoint: file that is written after every epoch, and read at the start if it exists. A run that was stopped
            at any moment continues from this file, and ends with the numbers of a run that was not stopped.
        report: is called with a line of text after every epoch, unless there are several devices.

    Returns:
        The trained model, on the CPU, and the curves of training.

    Raises:
        ImportError: for anything but one CPU in single precision, if lightning-fabric is not installed.
        ValueError: for a checkpoint with other settings; for fewer than two training images per device; or for a
            checkpoint with precision "16-mixed", whose gradients have a scale that checkpoints do not hold.
    """
    if len(examples[0]) < 2 * plan.devices:
        raise ValueError(f"there are {len(examples[0])} training images; give two per device at least")
    if checkpoint is not None and plan.precision == "16-mixed":
        raise ValueError("a checkpoint does not hold the scale of gradients in 16-mixed; take bf16-mixed")
    job = _Job(model, *examples, patches, plan, checkpoint, report)
    if (plan.accelerator, plan.devices, plan.precision) == ("cpu", 1, "32-true"):
        return _train(_OneCpu(), job)
    try:
        from lightning_fabric import Fabric
    except ImportError:
        raise ImportError(
            f"{plan.devices} x {plan.accelerator} in {plan.precision} is run by lightning-fabric, which is not "
            f"installed; pip install 'ranklens[train]'"
        ) from None
    strategy = "ddp_spawn" if plan.devices > 1 else "auto"
    fabric = Fabric(
        accelerator=plan.accelerator,
        devices=plan.devices,
        strategy=strategy,
        precision=plan.precision,  # type: ignore[arg-type]
    )
    if plan.devices > 1:  # several processes cannot share the line of a terminal
        job = dataclasses.replace(job, report=None)
    state, curves = fabric.launch(partial(_in_process, job=job))
    model.load_state_dict({name: torch.from_numpy(value) for name, value in state.items()})
    return model, curves


def _in_process(fabric: Devices, job: _Job) -> tuple[dict[str, NDArray[np.generic]], Curves]:
    """Return the state of the model after training in one of several processes, as arrays, and the curves.

    Processes share the memory of their arguments, so that each trains a copy of the model. Tensors that a process
    returns would be lost with its memory; arrays are not.
    """
    model, curves = _train(fabric, dataclasses.replace(job, model=copy.deepcopy(job.model)))
    if distributed.is_initialized():
        distributed.destroy_process_group()  # or one of its threads may outlive the process and abort it
    return {name: numpy(value) for name, value in model.state_dict().items()}, curves


def _train(fabric: Devices, job: _Job) -> tuple[nn.Module, Curves]:
    """Return the model, on the CPU, and its curves, after training in place from the start or from a checkpoint."""
    model, plan = job.model, job.plan
    wrapped, optimizer = fabric.setup(model, _sgd(model, plan))
    forward = getattr(wrapped, "_forward_module", wrapped)  # the outer wrapper forbids derivatives in the input
    penalty = LocalityPenalty(job.patches, weight=plan.weight, every=plan.every, fraction=plan.fraction, seed=plan.seed)
    learner = _Learner(model, forward, optimizer, penalty)
    curves = Curves()
    if job.checkpoint is not None and job.checkpoint.exists():
        curves = _restore(job.checkpoint, plan, learner)
    while not _finished(curves, plan):
        epoch = len(curves.loss)
        for group in learner.optimizer.param_groups:
            group["lr"] = plan.rate(epoch)
        learner.penalty.weight = plan.weight_of(epoch)
        with seeds.initial_values(plan.seed, f"dropout of epoch {epoch}"):  # dropout draws from the global generator
            loss, share = _epoch(learner, job.train_set, plan, epoch, fabric)
        curves.loss.append(loss)
        curves.train.append(share)
        if epoch % plan.watch == 0 or _finished(curves, plan):
            curves.test.append(accuracy(model, job.test_set, fabric))
            curves.epochs.append(epoch + 1)
        if job.checkpoint is not None and fabric.global_rank == 0:
            _save(job.checkpoint, plan, learner, curves)
        if job.report is not None:
            job.report(f"epoch {epoch + 1} of {plan.epochs}, loss {loss:.3f}, train {share:.1%}")
    return model.cpu(), curves


def _sgd(model: nn.Module, plan: Plan) -> torch.optim.SGD:
    """Return the optimizer of a plan."""
    return torch.optim.SGD(model.parameters(), lr=plan.lr, momentum=MOMENTUM, weight_decay=plan.decay)


def _epoch(learner: _Learner, examples: Examples, plan: Plan, epoch: int, fabric: Devices) -> tuple[float, float]:
    """Return the mean loss and the share of correctly classified images of one epoch of training, over all devices."""
    learner.model.train()
    dtype = next(learner.model.parameters()).dtype
    sums = torch.zeros(3, device=fabric.device)  # of the loss, of correct answers and of images
    for rows in _batches(len(examples), plan, epoch, fabric):
        x, y = (fabric.to_device(part.to(dtype)) for part in (examples.pictures(rows), examples.labels[rows]))
        with fabric.autocast():
            output = learner.forward(x.requires_grad_(learner.penalty.due))[:, 0]
            added = learner.penalty(learner.forward, x, output=output)
        loss = nn.functional.binary_cross_entropy_with_logits(output.to(dtype), y)
        learner.optimizer.zero_grad()
        fabric.backward(loss + added)
        learner.optimizer.step()
        correct = ((output > 0) == (y > 0)).sum()
        sums += torch.stack([loss.detach() * len(rows), correct, torch.full_like(correct, len(rows))])
    total, correct_count, count = fabric.all_reduce(sums, reduce_op="sum").tolist()
    return total / count, correct_count / count


def _finished(curves: Curves, plan: Plan) -> bool:
    """Return whether the last epoch is over, or the last one after all training images were classified correctly."""
    fitted = next((k + 1 for k, share in enumerate(curves.train) if share >= ALL), None)
    last = plan.epochs if fitted is None or not plan.stop else min(plan.epochs, fitted + plan.stop)
    return len(curves.loss) >= last


def _batches(count: int, plan: Plan, epoch: int, fabric: Devices) -> Iterator[Tensor]:
    """Yield the rows of every batch that this device takes, in the random order of an epoch.

    A last batch with fewer than two images per device, which have no patches to exchange, is left out.

    Yields:
        (k,) row numbers.
    """
    order = torch.randperm(count, generator=seeds.stream(plan.seed, f"epoch {epoch}"))
    for rows in order.split(plan.batch_size):
        if len(rows) >= 2 * fabric.world_size:
            yield rows[fabric.global_rank :: fabric.world_size]


def accuracy(model: nn.Module, examples: Examples, fabric: Devices | None = None) -> float:
    """Return the share of images that are classified correctly, between 0 and 1; the model is put in evaluation mode.

    An image is classified as 1 if its logit is positive, and as 0 otherwise.

    Args:
        model: maps images to one logit each, of shape (batch, 1).
        examples: images and labels.
        fabric: devices that evaluate the model; None takes the CPU.
    """
    correct = (outputs(model, examples, fabric) > 0) == (examples.labels > 0)
    return float(correct.double().mean())


@torch.no_grad()
def outputs(model: nn.Module, examples: Examples, fabric: Devices | None = None) -> Tensor:
    """Return the logit of every image, (count,) float32 numbers on the CPU; the model is put in evaluation mode.

    Args:
        model: maps images to one logit each, of shape (batch, 1).
        examples: the images; labels are not used.
        fabric: devices that evaluate the model; None takes the CPU.
    """
    fabric = fabric or _OneCpu()
    model.eval()
    dtype, parts = next(model.parameters()).dtype, torch.arange(len(examples)).split(AT_ONCE)
    with fabric.autocast():
        found = [model(fabric.to_device(examples.pictures(rows).to(dtype)))[:, 0].float().cpu() for rows in parts]
    return torch.cat(found)


def checkpoint_name(settings: Mapping[str, object], *point: object) -> str:
    """Return a file name for the checkpoint of a training run: runs that differ have different names.

    Args:
        settings: everything that the run depends on, as values that JSON can hold.
        *point: what distinguishes this run from others with these settings, such as its seed.

    Returns:
        24 hexadecimal digits of a hash, and the ending ".safetensors".

    >>> checkpoint_name({"lr": 0.1}, 0) == checkpoint_name({"lr": 0.1}, 1)
    False
    """
    text = json.dumps([dict(settings), *point], sort_keys=True)
    return f"{hashlib.sha256(text.encode()).hexdigest()[:24]}.safetensors"


def _save(path: Path, plan: Plan, learner: _Learner, curves: Curves) -> None:
    """Write a checkpoint: parameters, momentum, the state of the penalty, the settings and the curves so far."""
    tensors = {f"model.{name}": value.detach().cpu().contiguous() for name, value in learner.model.state_dict().items()}
    for k, parameter in enumerate(_trained(learner.optimizer)):
        held = learner.optimizer.state[parameter].get("momentum_buffer")
        if held is not None:
            tensors[f"momentum.{k}"] = held.detach().cpu().contiguous()
    state = learner.penalty.state_dict()
    tensors["generator"] = state["generator"]
    about = {"plan": dataclasses.asdict(plan), "curves": dataclasses.asdict(curves), "steps": state["steps"]}
    with writing.atomic(path) as beside:
        save_file(tensors, beside, metadata={"training": json.dumps(about)})


def _restore(path: Path, plan: Plan, learner: _Learner) -> Curves:
    """Return the curves of a checkpoint, after loading the rest of it into the model, the optimizer and the penalty.

    Raises:
        ValueError: if the checkpoint was written with other settings.
    """
    with safe_open(path, framework="pt") as stored:
        about = json.loads(stored.metadata()["training"])
        if LATER | about["plan"] != dataclasses.asdict(plan):
            raise ValueError(f"{path} was written with {about['plan']}, not {dataclasses.asdict(plan)}; remove it")
        tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 (it is no mapping)
    learner.model.load_state_dict({n.removeprefix("model."): v for n, v in tensors.items() if n.startswith("model.")})
    for k, parameter in enumerate(_trained(learner.optimizer)):
        if f"momentum.{k}" in tensors:
            learner.optimizer.state[parameter]["momentum_buffer"] = tensors[f"momentum.{k}"].to(parameter.device)
    learner.penalty.load_state_dict({"steps": about["steps"], "generator": tensors["generator"]})
    return Curves(**about["curves"])


def _trained(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    """Return the parameters of an optimizer, in their order."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
