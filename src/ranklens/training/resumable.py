"""Long training on long-range pictures: on any device, with the locality penalty, going on where it was stopped."""

import copy
import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, distributed, nn

from ranklens import files, seeds
from ranklens.dynamics.record import numpy
from ranklens.nn.locality_penalty import LocalityPenalty
from ranklens.nn.regions import Pair, Sampler

MOMENTUM = 0.9
ASKED = 500  # pictures that are asked together


@dataclass(frozen=True)
class Examples:
    """Pictures made when they are asked for, and whether the answer to each is yes.

    Attributes:
        pictures: from row numbers to pictures; it travels to other processes, so it is no lambda.
        labels: (count,) 1 or 0.
    """

    pictures: Callable[[Tensor], Tensor]
    labels: Tensor

    def __len__(self) -> int:
        """How many there are."""
        return len(self.labels)


@dataclass(frozen=True)
class Plan:
    """How to train, apart from what.

    Attributes:
        epochs: at the most.
        stop: epochs after which training stops once every training picture is answered rightly; 0 never stops.
        batch_size: pictures per step, over all devices.
        lr: of SGD with momentum .9.
        weight: of the penalty.
        every: steps from one evaluation of the penalty to the next.
        fraction: of a batch that it looks at.
        watch: epochs from one look at the test pictures to the next; nothing is chosen by it.
        seed: of batches and patches.
        accelerator: "cpu", "cuda" or what else lightning-fabric knows.
        devices: how many.
        precision: "32-true", "bf16-mixed", ...
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

    def __post_init__(self) -> None:
        """Refuse what would train nothing, or could not go on as it was."""
        if self.batch_size < 2 * self.devices:
            raise ValueError(f"batch_size is {self.batch_size} for {self.devices} devices; each takes two at least")
        if min(self.epochs, self.watch, self.devices) < 1 or self.stop < 0:
            raise ValueError(f"epochs {self.epochs}, watch {self.watch}, devices {self.devices}: each is 1 or more")


@dataclass
class Curves:
    """What is seen along the way: a number per epoch, and the test accuracy at the watched epochs.

    Attributes:
        loss: mean of the training loss without the penalty.
        train: share of training pictures answered rightly, while they were trained on.
        test: share of test pictures.
        epochs: at which `test` was taken; the last is the last.
    """

    loss: list[float] = dataclasses.field(default_factory=list)
    train: list[float] = dataclasses.field(default_factory=list)
    test: list[float] = dataclasses.field(default_factory=list)
    epochs: list[int] = dataclasses.field(default_factory=list)


class _Alone:
    """What of lightning-fabric's interface is used here, for one CPU and single precision, where nothing needs it."""

    world_size, global_rank, device = 1, 0, torch.device("cpu")

    def setup(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[nn.Module, torch.optim.Optimizer]:
        return model, optimizer

    def to_device(self, thing: Tensor) -> Tensor:
        return thing

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def autocast(self) -> AbstractContextManager[None]:
        return nullcontext()


def train(
    model: nn.Module,
    examples: tuple[Examples, Examples],
    patches: Pair | Sampler,
    plan: Plan,
    *,
    checkpoint: Path | None = None,
    report: Callable[[str], None] = lambda _: None,
) -> tuple[nn.Module, Curves]:
    """Train with binary cross entropy and the penalty.

    Args:
        model: pictures to one logit each; it is trained in place.
        examples: to learn from, and to ask in the end.
        patches: of the penalty.
        plan: how.
        checkpoint: a file that is written after every epoch and read at the start: training that was stopped, however,
            goes on from there and ends with the same numbers as if it had not been.
        report: is told of every epoch.

    Returns:
        The trained model, on the CPU, and what was seen.

    Raises:
        ImportError: for several devices or another precision without lightning-fabric.
        ValueError: for a checkpoint of other settings, fewer than two pictures per device, or checkpoints in a
            precision that scales gradients, whose scale they do not hold.
    """
    if len(examples[0]) < 2 * plan.devices:
        raise ValueError(f"there are {len(examples[0])} pictures to learn from; give two per device at least")
    if checkpoint is not None and plan.precision == "16-mixed":
        raise ValueError("a checkpoint does not hold the scale of gradients in 16-mixed; take bf16-mixed")
    if (plan.accelerator, plan.devices, plan.precision) == ("cpu", 1, "32-true"):
        return _train(_Alone(), model, examples, patches, plan, checkpoint, report)
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
    said = report if plan.devices == 1 else None  # a terminal is not shared
    state, curves = fabric.launch(partial(_launched, arguments=(model, examples, patches, plan, checkpoint, said)))
    model.load_state_dict({name: torch.from_numpy(value) for name, value in state.items()})
    return model, curves


def _launched(fabric: Any, arguments: tuple[Any, ...]) -> tuple[dict[str, NDArray[Any]], Curves]:
    """What one process does: they share the memory of what they are given, and what they return is gone with them."""
    model, curves = _train(fabric, copy.deepcopy(arguments[0]), *arguments[1:])
    if distributed.is_initialized():
        distributed.destroy_process_group()  # or a thread of it may outlive its process, and abort it
    return {name: numpy(value) for name, value in model.state_dict().items()}, curves


def _train(
    fabric: Any,
    model: nn.Module,
    examples: tuple[Examples, Examples],
    patches: Pair | Sampler,
    plan: Plan,
    checkpoint: Path | None,
    report: Callable[[str], None] | None,
) -> tuple[nn.Module, Curves]:
    learnt, asked = examples
    wrapped, optimizer = fabric.setup(model, torch.optim.SGD(model.parameters(), lr=plan.lr, momentum=MOMENTUM))
    inner = getattr(wrapped, "_forward_module", wrapped)  # fabric's own forbids derivatives in the input
    dtype = next(model.parameters()).dtype
    penalty = LocalityPenalty(patches, weight=plan.weight, every=plan.every, fraction=plan.fraction, seed=plan.seed)
    curves = Curves()
    if checkpoint is not None and checkpoint.exists():
        curves = _restore(checkpoint, plan, model, optimizer, penalty)
    while not _over(curves, plan):
        epoch = len(curves.loss)
        model.train()
        seen = torch.zeros(3, device=fabric.device)  # loss, right answers, pictures
        for rows in _batches(len(learnt), plan, epoch, fabric):
            x, y = (fabric.to_device(part.to(dtype)) for part in (learnt.pictures(rows), learnt.labels[rows]))
            with fabric.autocast():
                output = inner(x.requires_grad_(penalty.due))[:, 0]
                added = penalty(inner, x, output=output)
            loss = nn.functional.binary_cross_entropy_with_logits(output.to(dtype), y)
            optimizer.zero_grad()
            fabric.backward(loss + added)
            optimizer.step()
            right = ((output > 0) == (y > 0)).sum()
            seen += torch.stack([loss.detach() * len(rows), right, torch.full_like(right, len(rows))])
        if fabric.world_size > 1:
            seen = fabric.all_reduce(seen, reduce_op="sum")
        total, right, count = seen.tolist()
        curves.loss.append(total / count)
        curves.train.append(right / count)
        if epoch % plan.watch == 0 or _over(curves, plan):
            curves.test.append(accuracy(model, asked, fabric))
            curves.epochs.append(epoch + 1)
        if checkpoint is not None and fabric.global_rank == 0:
            _keep(checkpoint, plan, model, optimizer, penalty, curves)
        if report is not None:
            report(f"epoch {epoch + 1} of {plan.epochs}, loss {curves.loss[-1]:.3f}, train {curves.train[-1]:.1%}")
    return model.cpu(), curves


def _over(curves: Curves, plan: Plan) -> bool:
    fitted = next((k + 1 for k, share in enumerate(curves.train) if share >= 1 - 1e-9), None)
    last = plan.epochs if fitted is None or not plan.stop else min(plan.epochs, fitted + plan.stop)
    return len(curves.loss) >= last


def _batches(count: int, plan: Plan, epoch: int, fabric: Any) -> Iterator[Tensor]:
    """This device's share of every batch; a last batch of too few pictures to exchange patches is left out."""
    order = torch.randperm(count, generator=seeds.stream(plan.seed, f"epoch {epoch}"))
    for rows in order.split(plan.batch_size):
        if len(rows) >= 2 * fabric.world_size:
            yield rows[fabric.global_rank :: fabric.world_size]


def accuracy(model: nn.Module, examples: Examples, fabric: Any = None) -> float:
    """The share of pictures answered rightly, in evaluation mode."""
    right = (outputs(model, examples, fabric) > 0) == (examples.labels > 0)
    return float(right.double().mean())


@torch.no_grad()
def outputs(model: nn.Module, examples: Examples, fabric: Any = None) -> Tensor:
    """The logit of every picture, in evaluation mode."""
    fabric = fabric or _Alone()
    model.eval()
    dtype, parts = next(model.parameters()).dtype, torch.arange(len(examples)).split(ASKED)
    with fabric.autocast():
        found = [model(fabric.to_device(examples.pictures(rows).to(dtype)))[:, 0].float().cpu() for rows in parts]
    return torch.cat(found)


def checkpoint_name(settings: dict[str, Any], *point: Any) -> str:
    """A file name that differs where anything does that a training run depends on."""
    text = json.dumps([settings, *point], sort_keys=True)
    return f"{hashlib.sha256(text.encode()).hexdigest()[:24]}.safetensors"


def _keep(path: Path, plan: Plan, model: nn.Module, optimizer: Any, penalty: LocalityPenalty, curves: Curves) -> None:
    tensors = {f"model.{name}": value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    for k, parameter in enumerate(p for group in optimizer.param_groups for p in group["params"]):
        held = optimizer.state[parameter].get("momentum_buffer")
        if held is not None:
            tensors[f"momentum.{k}"] = held.detach().cpu().contiguous()
    state = penalty.state_dict()
    tensors["generator"] = state["generator"]
    about = {"plan": dataclasses.asdict(plan), "curves": dataclasses.asdict(curves), "steps": state["steps"]}
    with files.atomic(path) as beside:
        save_file(tensors, beside, metadata={"training": json.dumps(about)})


def _restore(path: Path, plan: Plan, model: nn.Module, optimizer: Any, penalty: LocalityPenalty) -> Curves:
    with safe_open(path, framework="pt") as stored:
        about = json.loads(stored.metadata()["training"])
        if about["plan"] != dataclasses.asdict(plan):
            raise ValueError(f"{path} was written with {about['plan']}, not {dataclasses.asdict(plan)}; remove it")
        tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 (it is no mapping)
    model.load_state_dict({n.removeprefix("model."): v for n, v in tensors.items() if n.startswith("model.")})
    for k, parameter in enumerate(p for group in optimizer.param_groups for p in group["params"]):
        if f"momentum.{k}" in tensors:
            optimizer.state[parameter]["momentum_buffer"] = tensors[f"momentum.{k}"].to(parameter.device)
    penalty.load_state_dict({"steps": about["steps"], "generator": tensors["generator"]})
    return Curves(**about["curves"])
