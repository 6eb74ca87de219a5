"""A penalty counters the locality of convolutional networks: they learn what lies far apart."""

import dataclasses
import itertools
import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from joblib import Parallel, delayed
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn

from ranklens import data, drawing, problems, seeds
from ranklens import nn as layers
from ranklens.dynamics import optim
from ranklens.nn.regions import Pair, Sampler
from ranklens.progress import reporter
from ranklens.studies.kit import records
from ranklens.studies.kit.agreement import agreement
from ranklens.studies.kit.claim import Claim
from ranklens.tensors import families, measures, trees
from ranklens.training import resumable as long_training
from ranklens.training.resumable import Curves, Examples, Plan

TITLE = "Locality is a bias that a penalty counters"
EXPLANATION = (
    "Whether two images show the same class is easy for a convolutional network while they are side by side, and hard "
    "when they are far apart, though it fits its training pictures as well. A penalty on input gradients that do not "
    "change when the other image is exchanged asks for dependence between the two, which is high hierarchical rank, "
    "and recovers what distance took."
)
SOURCE = (
    "Razin, Maman, Cohen (ICML 2022), section 5 and figures 4 and 5 at other sizes, with published numbers in the docs"
)

CHANNELS, STRIDES = (16, 32, 64, 64, 64, 64), (2, 2, 2, 1, 1, 1)
FORMS = (1, 2, 4, 8)  # ranks of bilinear forms whose penalty is known
INPUTS = 8  # of either side of a bilinear form
TRAP_SIZE, TRAP_WIDTH, TRAP_SEEN, TRAP_ROWS = 5, 25, 300, 64
STARTS = {"small start": 0.05, "start of order one": 0.3}  # std of every weight of the factorization
NUMBERS = ("test", "train", "epochs", "share", "random_share", "interaction", "effective_rank")  # of every run
PROFILED = 500  # pictures that patches are taken from


@dataclass(frozen=True)
class Settings:
    """Pairs of images at several distances, or Pathfinder of several lengths, with and without the penalty.

    Attributes:
        task: "same_class" or "pathfinder".
        images: of which pairs are made, as in `rl.data.images`.
        tile: side to which these are averaged; 0 leaves them as they are.
        canvas: of a pair, height and width; of Pathfinder the sides, both equal.
        ranges: distances in columns, or lengths in dashes, the easiest first.
        weights: of the penalty; the first is 0, the last is what the claims are about.
        train: pictures learnt from.
        test: pictures asked.
        network: "cnn", "resnet18" or "resnet34".
        epochs: of training.
        stop: epochs after which it ends once all training pictures are answered rightly; 0 never does.
        batch_size: pictures per step.
        lr: of SGD with momentum .9.
        every: steps from one evaluation of the penalty to the next.
        patch: side of the patches that are drawn for Pathfinder; for pairs they are the two images.
        watch: epochs from one look at the test pictures to the next.
        trap_weights: of the penalty on a factorization; the first is 0.
        trap_steps: of its descent.
        samples: of bilinear forms.
        checkpoints: a folder, from which training goes on; "" keeps nothing.
        accelerator: as in `Plan`.
        devices: as in `Plan`.
        precision: as in `Plan`.
        jobs: training runs side by side, each on one thread.
        seeds: of pictures, start, batches and patches.
    """

    task: str = "same_class"
    images: str = "digits"
    tile: int = 0
    canvas: tuple[int, int] = (8, 64)
    ranges: tuple[int, ...] = (0, 48)
    weights: tuple[float, ...] = (0.0, 1.0)
    train: int = 2000
    test: int = 10_000
    network: str = "cnn"
    epochs: int = 120
    stop: int = 0
    batch_size: int = 64
    lr: float = 0.01
    every: int = 1
    patch: int = 2
    watch: int = 5
    trap_weights: tuple[float, ...] = (0.0, 0.03, 1.0)
    trap_steps: int = 600
    samples: int = 2000
    checkpoints: str = ""
    accelerator: str = "cpu"
    devices: int = 1
    precision: str = "32-true"
    jobs: int = 1
    seeds: tuple[int, ...] = (0, 1, 2)


PAPER = Settings(
    images="cifar10",
    canvas=(224, 224),
    ranges=(0, 40, 80, 120, 160),
    weights=(0.0, 0.1, 1.0),
    train=5000,
    network="resnet18",
    epochs=150,
    stop=20,
    checkpoints="checkpoints",
    accelerator="cuda",
    seeds=(0,),
)
PRESETS = {
    "laptop": Settings(ranges=(48,), epochs=36, test=2000, trap_steps=450, seeds=(0,)),
    "digits": Settings(jobs=2),
    "distances": Settings(ranges=(0, 16, 32, 40, 48), weights=(0.0, 0.1, 1.0), jobs=2, seeds=(0,)),
    "medium": Settings(
        task="pathfinder",
        canvas=(64, 64),
        ranges=(3, 5, 7, 9),
        weights=(0.0, 1.0),
        train=10_000,
        epochs=20,
        every=2,
        patch=4,
        seeds=(0,),
    ),
    "paper": PAPER,
    "pathfinder": dataclasses.replace(
        PAPER,
        task="pathfinder",
        canvas=(150, 150),
        ranges=(3, 5, 7, 9),
        weights=(0.0, 3.0, 9.0),
        train=10_000,
    ),
    "tiny": Settings(
        canvas=(8, 32),
        ranges=(0, 16),
        train=64,
        test=50,
        epochs=2,
        trap_weights=(0.0, 1.0),
        trap_steps=3,
        seeds=(0,),
    ),
}
MINUTES = {
    "laptop": 1.45,
    "digits": 28.0,
    "distances": 36.0,
    "medium": 90.0,
    "paper": 900.0,
    "pathfinder": 900.0,
    "tiny": 0.1,
}


def run(settings: Settings) -> xr.Dataset:
    """Train at every range with every weight; what two checks of the penalty give; what it does to a factorization."""
    for name in ("weights", "trap_weights"):
        values = getattr(settings, name)
        if len(values) < 2 or values[0] != 0:
            raise ValueError(f"{name} is {values}; the first is 0, no penalty, and one at least follows")
    dims = {"range": settings.ranges, "weight": settings.weights, "seed": settings.seeds}
    shape = tuple(map(len, dims.values()))
    found = {name: np.full(shape, np.nan) for name in NUMBERS}
    curves = {f"{name}_curve": np.full((*shape, settings.epochs), np.nan) for name in ("test", "train", "loss")}
    points = itertools.product(*dims.values())
    with reporter(None) as report:
        calls = (delayed(trained)(settings, *point) for point in points)
        runs = Parallel(n_jobs=settings.jobs, return_as="generator", inner_max_num_threads=1)
        for n, (at, (seen, numbers)) in enumerate(zip(np.ndindex(shape), runs(calls), strict=True)):
            report(f"trained {n + 1} of {math.prod(shape)}")
            for name, number in numbers.items():
                found[name][at] = number
            curves["test_curve"][at][np.array(seen.epochs) - 1] = seen.test
            curves["train_curve"][at][: len(seen.train)] = seen.train
            curves["loss_curve"][at][: len(seen.loss)] = seen.loss
        report("the penalty of a factorization")
        traps = trapped(settings)
    record = xr.Dataset(
        {
            **{name: (tuple(dims), values) for name, values in found.items()},
            **{name: ((*dims, "epoch"), values) for name, values in curves.items()},
            "bilinear": ("form", np.array([bilinear(rank, settings.samples) for rank in FORMS])),
            "exact": ("function", np.array(exact())),
            **traps.data_vars,
        },
        coords={**{name: list(values) for name, values in dims.items()}, "form": list(FORMS), **traps.coords},
    )
    return record.assign_coords(epoch=np.arange(1, settings.epochs + 1), function=["product", "sum"])


def trained(settings: Settings, reach: int, weight: float, seed: int) -> tuple[Curves, dict[str, float]]:
    """One training run, and what is measured of it."""
    learnt, asked, patches = examples(settings, reach, seed)
    with reporter(None) as report:
        model, seen = long_training.train(
            network(settings, learnt, seed),
            (learnt, asked),
            patches,
            plan(settings, weight, seed),
            checkpoint=checkpoint(settings, reach, weight, seed),
            report=lambda line: report(f"{settings.task}, range {reach}, weight {weight:g}, seed {seed}: {line}"),
        )
    numbers = {"test": seen.test[-1], "train": seen.train[-1], "epochs": float(len(seen.loss))}
    return seen, numbers | coupling(settings, model, asked, patches, seed)


def examples(settings: Settings, reach: int, seed: int) -> tuple[Examples, Examples, Pair | Sampler]:
    """What is learnt from and what is asked, at one distance or length; and the patches of the penalty."""
    if settings.task == "pathfinder":
        side = settings.canvas[0]
        parts = [
            data.pathfinder(count, reach, side, seed=seeds.derive(seed, part))
            for part, count in (("paths to learn from", settings.train), ("paths to ask", settings.test))
        ]
        mean, std = parts[0].images.float().mean(), parts[0].images.float().std()
        made = [Examples(partial(_normalized, part.images, mean, std), part.labels) for part in parts]
        return made[0], made[1], layers.PatchPairs(settings.patch)
    if settings.task != "same_class":
        raise ValueError(f"there is no task {settings.task!r}; choose same_class or pathfinder")
    loaded = data.images(settings.images)
    train, test = (_tiles(part, settings.tile) for part in (loaded.train, loaded.test))
    learnt = data.same_class(train, settings.train, distance=reach, canvas=settings.canvas, seed=seed)
    other = seeds.derive(seed, "pairs to ask")
    asked = data.same_class(test, settings.test, distance=reach, canvas=settings.canvas, like=learnt, seed=other)
    return Examples(learnt.canvases, learnt.labels), Examples(asked.canvases, asked.labels), learnt.boxes


def _normalized(images: Tensor, mean: Tensor, std: Tensor, rows: Tensor) -> Tensor:
    return (images[rows].float()[:, None] - mean) / std


def _tiles(part: data.Labelled, side: int) -> data.Labelled:
    if not side:
        return part
    pooled = nn.functional.adaptive_avg_pool2d(part.images.float(), side)
    return data.Labelled(pooled.round().to(torch.uint8), part.labels)


def network(settings: Settings, learnt: Examples, seed: int) -> nn.Module:
    """A network for the pictures, with one logit."""
    channels = learnt.pictures(torch.arange(1)).shape[1]
    if settings.network.startswith("resnet"):
        return layers.resnet(int(settings.network.removeprefix("resnet")), channels=channels, seed=seed)
    if settings.network != "cnn":
        raise ValueError(f"there is no network {settings.network!r}; choose cnn, resnet18 or resnet34")
    with seeds.initial_values(seed, "network"):
        parts: list[nn.Module] = []
        for into, out, stride in zip((channels, *CHANNELS), CHANNELS, STRIDES, strict=False):
            parts += [nn.Conv2d(into, out, 3, stride, 1), nn.BatchNorm2d(out), nn.ReLU()]
        return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(CHANNELS[-1], 1))


def plan(settings: Settings, weight: float, seed: int) -> Plan:
    """The settings of one training run."""
    names = {field.name for field in dataclasses.fields(Plan)} - {"weight", "seed", "fraction"}
    return Plan(**{name: getattr(settings, name) for name in names}, weight=weight, seed=seed, fraction=1.0)


def checkpoint(settings: Settings, reach: int, weight: float, seed: int) -> Path | None:
    """The file that one training run goes on from, of a name that every setting goes into which it depends on."""
    if not settings.checkpoints:
        return None
    others = ("ranges", "weights", "seeds", "checkpoints", "jobs", "trap_weights", "trap_steps", "samples")
    kept = {k: v for k, v in dataclasses.asdict(settings).items() if k not in others}
    return Path(settings.checkpoints) / long_training.checkpoint_name(kept, reach, weight, seed)


def coupling(
    settings: Settings, model: nn.Module, asked: Examples, patches: Pair | Sampler, seed: int
) -> dict[str, float]:
    """How strongly the trained network couples the two images, or patches of Pathfinder a third of the side apart."""
    x = asked.pictures(torch.arange(min(PROFILED, len(asked))))
    fresh = network(settings, asked, seed)
    if callable(patches):
        side = settings.canvas[0]
        profile = layers.locality_profile(
            model, x, size=side // 8, distances=[side // 3], seed=seed, control=fresh, batch_size=64
        )
        at, random = (profile.sel(network=name).isel(distance=0) for name in ("trained", "random"))
        values = {name: float(at[name]) for name in ("share", "interaction", "effective_rank")}
        return {**values, "random_share": float(random.share)}
    found = layers.separation_rank(model, x, patches[0], against=patches[1], batch_size=64)
    untrained = layers.separation_rank(fresh, x, patches[0], against=patches[1], batch_size=64)
    spread = float(long_training.outputs(model, asked).std())
    return {
        "share": float(found.share),
        "interaction": float(found.interaction) / spread if spread > 0 else 0.0,
        "effective_rank": float(found.effective_rank),
        "random_share": float(untrained.share),
    }


@torch.no_grad()
def bilinear(rank: int, samples: int) -> float:
    """The penalty of x^T W V^T y, W and V orthonormal, for Gaussian y."""
    W, V, x, y = seeds.normals([(INPUTS, rank)] * 2 + [(samples, INPUTS)] * 2, 0, f"bilinear forms of rank {rank}")
    W, V = torch.linalg.qr(W).Q, torch.linalg.qr(V).Q
    left = torch.arange(2 * INPUTS) < INPUTS

    def form(z: Tensor) -> Tensor:
        return ((z[:, :INPUTS] @ W) * (z[:, INPUTS:] @ V)).sum(dim=1)

    return float(layers.locality_penalty(form, torch.cat([x, y], dim=1), patches=(left, ~left)))


def expected(rank: float) -> float:
    """Its mean: |cos| of two directions drawn evenly in `rank` dimensions."""
    return math.gamma(rank / 2) / (math.sqrt(math.pi) * math.gamma((rank + 1) / 2))


@torch.no_grad()
def exact() -> list[float]:
    """The penalty of a product and of a sum of two functions, one of either side."""
    (z,) = seeds.normals([(50, 2 * INPUTS)], 0, "products and sums")
    left = torch.arange(2 * INPUTS) < INPUTS
    either = ((lambda a, b: a * b), (lambda a, b: a + b))
    return [
        float(
            layers.locality_penalty(
                lambda z, f=f: f(z[:, :INPUTS].sin().sum(dim=1), z[:, INPUTS:].exp().sum(dim=1)),  # type: ignore[misc]
                z,
                patches=(left, ~left),
            )
        )
        for f in either
    ]


def trapped(settings: Settings) -> xr.Dataset:
    """The loss of a hierarchical factorization along descent, with the penalty between both halves of its modes."""
    shape = (TRAP_SIZE,) * 4
    task = problems.Completion.sample(agreement(TRAP_SIZE, (0, 1)), TRAP_SEEN, seed=0)
    x = nn.functional.one_hot(task.indices, TRAP_SIZE).double()
    half = torch.zeros(4, TRAP_SIZE, dtype=torch.bool)
    half[:2] = True
    losses = np.full((len(STARTS), len(settings.trap_weights), settings.trap_steps + 1), np.nan)
    ranks = np.zeros(losses.shape[:2])
    for n, std in enumerate(STARTS.values()):
        for k, weight in enumerate(settings.trap_weights):
            net = families.hierarchical(shape, TRAP_WIDTH, trees.ModeTree.adjacent(4), std=std, seed=0)
            optimizer = optim.GroupRMSprop(net.parameters(), lr=1e-2)
            drawn = seeds.stream(0, "rows of the penalty")
            for step in range(settings.trap_steps + 1):
                loss = task.loss(net)
                losses[n, k, step] = float(loss.detach())
                rows = torch.randperm(len(x), generator=drawn)[:TRAP_ROWS]
                if weight:
                    loss = loss + weight * layers.locality_penalty(net.evaluate, x[rows], patches=(half, ~half))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            ranks[n, k] = float(measures.effective_rank(measures.matricize(net.tensor().detach(), [0, 1])))
    return xr.Dataset(
        {"trap_loss": (("start", "trap", "step"), losses), "trap_rank": (("start", "trap"), ranks)},
        coords={"start": list(STARTS), "trap": list(settings.trap_weights)},
    )


def claims(record: xr.Dataset) -> list[Claim]:
    """What the penalty is, exactly; what it gains far away and costs nearby; how it couples; where it harms."""
    settings = records.settings_of(record, Settings)
    formula = np.array([expected(int(rank)) for rank in record.form])
    off = float(np.abs(record.bilinear.values - formula).max())
    found = [
        Claim(
            "theorem",
            "penalty of bilinear forms of rank 1, 2, 4, 8 against Gamma(r/2) / (sqrt(pi) Gamma((r+1)/2)) (worst)",
            off,
            "<=",
            0.02,
        ),
        Claim(
            "theorem",
            "penalty of a product g(x) h(y), and of a sum, off 1 by",
            float(np.abs(record.exact.values - 1).max()),
            "<=",
            1e-10,
        ),
    ]
    plain, most = settings.weights[0], settings.weights[-1]
    near, far = settings.ranges[0], settings.ranges[-1]
    gain = (record.test.sel(weight=most) - record.test.sel(weight=plain)).median("seed")
    what = "columns apart" if settings.task == "same_class" else "dashes"
    found.append(
        Claim(
            "finding",
            f"{far} {what}: test accuracy gained by the penalty, weight {most:g} (median of the seeds)",
            float(gain.sel(range=far)),
            ">=",
            0.08,
        )
    )
    if far != near:
        found += [
            Claim(
                "finding",
                f"{near} {what}: test accuracy lost by the penalty (median of the seeds)",
                -float(gain.sel(range=near)),
                "<=",
                0.03,
            ),
            Claim(
                "finding",
                f"test accuracy that range costs without it, {near} to {far} {what} (median of the seeds)",
                float((record.test.sel(range=near) - record.test.sel(range=far)).sel(weight=plain).median("seed")),
                ">=",
                0.1,
            ),
        ]
    share = record.share.sel(range=far).median("seed")
    left = record.trap_loss.isel(step=-1) / record.trap_loss.isel(step=0)
    small, scaled = left.sel(start="small start"), left.sel(start="start of order one")
    return [
        *found,
        Claim(
            "finding",
            f"{far} {what}: part of the logit's variance that couples both patches, with over without the penalty",
            float(share.sel(weight=most) / share.sel(weight=plain)),
            ">=",
            1.2,
        ),
        Claim(
            "finding",
            f"the penalty traps a factorization at a small start: loss left, weight {settings.trap_weights[1]:g} "
            f"over none",
            float(small.isel(trap=1) / small.isel(trap=0)),
            ">=",
            10.0,
        ),
        Claim(
            "finding",
            f"and hinders one at a start of order one: loss left, weight {settings.trap_weights[-1]:g} over none",
            float(scaled.isel(trap=-1) / scaled.isel(trap=0)),
            ">=",
            10.0,
        ),
    ]


def draw(record: xr.Dataset) -> Figure:
    """Accuracy by range and along training; a picture and its patches; coupling; the exact check; the trap."""
    settings = records.settings_of(record, Settings)
    made, (accuracy, along, picture, coupled, check, trap) = drawing.figure(3, 2)
    far = settings.ranges[-1]
    what = "columns between the images" if settings.task == "same_class" else "dashes of a path"
    for k, weight in enumerate(settings.weights):
        name = "no penalty" if weight == 0 else f"penalty, weight {weight:g}"
        at = record.test.sel(weight=weight)
        accuracy.plot(record.range, 100 * at.median("seed"), marker="os^"[k % 3], label=name, **drawing.style(k))
        coupled.plot(
            record.range,
            100 * record.share.sel(weight=weight).median("seed"),
            marker="os^"[k % 3],
            label=name,
            **drawing.style(k),
        )
        for seed in record.seed:
            accuracy.plot(record.range, 100 * at.sel(seed=seed), ".", color=drawing.COLOURS[k], alpha=0.5)
            curve = record.test_curve.sel(range=far, weight=weight, seed=seed).dropna("epoch")
            label = name if seed == record.seed[0] else None
            along.plot(curve.epoch, 100 * curve, label=label, linewidth=1.3, **drawing.style(k))
    random = 100 * record.random_share.isel(weight=0).median("seed")
    coupled.plot(record.range, random, marker="x", label="before training", color="#777777")
    for axes in (accuracy, along):
        axes.axhline(50, label="chance", **drawing.THEORY)
        axes.legend(fontsize=8)
    accuracy.set_xticks(list(settings.ranges))
    coupled.set_xticks(list(settings.ranges))
    coupled.set_ylim(0)
    coupled.legend(fontsize=8)
    drawing.label(accuracy, "What distance takes, the penalty gives back", what, "test accuracy at the last epoch, %")
    drawing.label(along, f"Along training, {far} {what.split(maxsplit=1)[0]}", "epoch", "test accuracy, %")
    drawing.label(coupled, "The penalty couples what it should", what, "logit's variance from both patches, %")
    _draw_picture(picture, settings)
    _draw_check(check, record)
    _draw_trap(trap, record)
    return made


def _draw_picture(axes: Axes, settings: Settings) -> None:
    """One picture of the hardest range with two patches of the penalty."""
    one = dataclasses.replace(settings, train=2, test=2)
    try:
        learnt, _, patches = examples(one, settings.ranges[-1], settings.seeds[0])
        shown, answer = learnt.pictures(torch.arange(1))[0].mean(dim=0), "yes" if int(learnt.labels[0]) else "no"
    except FileNotFoundError:  # the record was made where the images are
        shown, answer, patches = torch.zeros(settings.canvas), "no image here", layers.PatchPairs(settings.patch)
    pair = patches(shown.shape, seeds.stream(0, "picture")) if callable(patches) else patches
    axes.imshow(shown.numpy(), cmap="gray", interpolation="nearest", aspect="equal")
    for k, box in enumerate(pair):
        top, left, height, width = (int(edge) for edge in box)
        rows, columns = np.array([0, 0, 1, 1, 0]) * height + top, np.array([0, 1, 1, 0, 0]) * width + left
        axes.plot(columns - 0.5, rows - 0.5, linewidth=2, color=drawing.COLOURS[(4, 5)[k]])
    axes.grid(False)
    question = "Same class?" if settings.task == "same_class" else "One path?"
    drawing.label(axes, f"{question} {answer.capitalize()}", "column, pixels; outlined: both patches", "row, pixels")


def _draw_check(axes: Axes, record: xr.Dataset) -> None:
    ranks = np.linspace(1, max(FORMS), 100)
    axes.plot(ranks, [expected(r) for r in ranks], label="formula", **drawing.THEORY)
    axes.plot(record.form, record.bilinear, "o", color=drawing.COLOURS[0], label="measured")
    axes.set_ylim(0, 1.05)
    axes.legend(fontsize=8)
    drawing.label(axes, "High rank has a low penalty", "rank of a bilinear form", "penalty")


def _draw_trap(axes: Axes, record: xr.Dataset) -> None:
    for n, start in enumerate(record.start.values):
        for k, weight in enumerate(record.trap.values):
            at = record.trap_loss.sel(start=start, trap=weight)
            name = f"{'no penalty' if weight == 0 else f'weight {weight:g}'}, {start}"
            style = {**drawing.style(k), "linestyle": "-" if n == 0 else ":"}
            axes.semilogy(at.step, at / at.isel(step=0), label=name, linewidth=1.3, **style)
    axes.legend(fontsize=6.5)
    drawing.label(axes, "Yet it traps factorizations", "steps of descent", "loss / loss at the start")


def alt(record: xr.Dataset) -> str:
    """What the picture shows."""
    settings = records.settings_of(record, Settings)
    parts = []
    for weight in settings.weights:
        at = record.test.sel(weight=weight).median("seed")
        parts.append(f"weight {weight:g} {', '.join(f'{100 * float(v):.1f}%' for v in at)}")
    where = ", ".join(map(str, settings.ranges))
    trap = record.trap_loss.sel(start="small start")
    ends = ", ".join(f"{float(at.isel(step=-1) / at.isel(step=0)):.2g}" for at in trap)
    return (
        f"Test accuracy at the last epoch at range {where}: {'; '.join(parts)}. A factorization at a small start keeps "
        f"these parts of its loss with the weights {', '.join(f'{w:g}' for w in settings.trap_weights)}: {ends}."
    )
