"""Experiments at the published sizes on one GPU, as many as the time allows, with results written as they come.

    python benchmarks/accelerator.py --minutes 9 --out accelerator

The jobs run in this order: pairs of the same class on 224 x 224 canvases with ResNet-18, Pathfinder of nine dashes at
150 x 150, a hierarchical flow, an ensemble of descents, and the tensor factorization of order 784. Each has a share of
the time, which is printed before it begins, and its own time after it. `results.json` holds what every job has measured
so far. Started again with the same folder, the script skips jobs that are done, and training continues from its
checkpoints. `--toy` runs every job at a size for tests.
"""

import argparse
import contextlib
import json
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open

import ranklens as rl
from ranklens.data import pixels
from ranklens.files import writing
from ranklens.training import long_range
from ranklens.training.resumable import Plan, train

CLASS, RANK, BATCH = 6, 15, 5000  # of the published figure of order 784: class, components, images per step
PUBLISHED_STEPS = 120_000
STEPS_BETWEEN_ROWS = 500  # of the descent of order 784


@dataclass(frozen=True)
class Machine:
    """Where a job runs, and for how long.

    Attributes:
        device: "cuda" or "cpu".
        toy: whether every job is made small.
        seconds: how long the job may take.
        folder: where checkpoints are kept.
    """

    device: str
    toy: bool
    seconds: float
    folder: Path

    @property
    def precision(self) -> str:
        """Mixed precision for convolutional networks on a GPU."""
        return "bf16-mixed" if self.device == "cuda" else "32-true"


Result = dict[str, object]
Job = Callable[[Machine], Iterator[Result]]


class _TimeIsUp(Exception):
    """End a training run between two epochs."""


def trained(machine: Machine, name: str, task: long_range.Task, weight: float, every: int, epochs: int) -> Result:
    """Train ResNet-18 with the locality penalty until its epochs or its time are over; return its curves."""
    plan = Plan(
        epochs=epochs,
        stop=20,
        batch_size=4 if machine.toy else 64,
        lr=0.01,
        weight=weight,
        every=every,
        fraction=1.0,
        watch=1 if machine.toy else 5,
        seed=0,
        accelerator=machine.device,
        precision=machine.precision,
    )
    checkpoint = machine.folder / f"{name}.safetensors"
    started = time.perf_counter()

    def watch(line: str) -> None:
        print(f"  {name}: {line}, {time.perf_counter() - started:.0f} s", flush=True)
        if time.perf_counter() - started > machine.seconds:
            raise _TimeIsUp

    channels = task.train.pictures(torch.arange(1)).shape[1]
    model = rl.nn.resnet(18, channels=channels, seed=0)
    with contextlib.suppress(_TimeIsUp):
        train(model, (task.train, task.test), task.patches, plan, checkpoint=checkpoint, report=watch)
    with safe_open(checkpoint, framework="pt") as stored:
        curves = json.loads(stored.metadata()["training"])["curves"]
    seconds = time.perf_counter() - started
    return {"weight": weight, "every": every, "seconds": seconds, "epochs_of_plan": epochs, **curves}


def pairs(machine: Machine) -> Iterator[Result]:
    """Are two images 160 columns apart of one class? ResNet-18 with penalty weights 0 and 1."""
    distance = 8 if machine.toy else 160
    images = "cifar10" if (rl.data.folder() / "cifar10").exists() else "fashion-mnist"
    if machine.toy:
        task = long_range.same_class("digits", 8, train=8, test=8, canvas=(8, 24), tile=0, seed=0)
        images = "digits"
    else:
        tile = 0 if images == "cifar10" else 32
        task = long_range.same_class(images, 160, train=5000, test=2000, canvas=(224, 224), tile=tile, seed=0)
    epochs = 1 if machine.toy else 150
    for weight, share in ((0.0, 0.25), (1.0, 0.75)):
        part = Machine(machine.device, machine.toy, machine.seconds * share, machine.folder)
        yield {"images": images, "distance": distance, **trained(part, f"pairs_{weight:g}", task, weight, 1, epochs)}


def paths(machine: Machine) -> Iterator[Result]:
    """Do two markers lie on one path of nine dashes? ResNet-18 at 150 x 150 with penalty weights 0 and 9."""
    length, side, count = (3, 40, 8) if machine.toy else (9, 150, 10_000)
    patch = 4 if machine.toy else 2
    task = long_range.pathfinder(length, train=count, test=8 if machine.toy else 2000, side=side, patch=patch, seed=0)
    epochs = 1 if machine.toy else 150
    for weight, share in ((0.0, 0.25), (9.0, 0.75)):
        part = Machine(machine.device, machine.toy, machine.seconds * share, machine.folder)
        yield {"dashes": length, **trained(part, f"pathfinder_{weight:g}", task, weight, 1, epochs)}


def flow(machine: Machine) -> Iterator[Result]:
    """Gradient flow of a hierarchical factorization 8^4 of width 512, in float64, on this device and on the CPU."""
    width, size, observed = (8, 3, 40) if machine.toy else (512, 8, 2048)
    target = rl.targets.hierarchical((size,) * 4, rank=2 if machine.toy else 3)
    task = rl.Completion.sample(target, observed=observed)
    for device in dict.fromkeys((machine.device, "cpu")):
        net = rl.hierarchical((size,) * 4, width, std=0.05 if machine.toy else 1e-2).to(device)
        until = 1e-2 if machine.toy else 5e-5
        started = time.perf_counter()
        run = rl.gradient_flow(
            net, task, rtol=1e-4, until_loss=until, until_evaluations=20_000, track={"error": task.error}
        )
        yield {
            "device": device,
            "width": width,
            "seconds": time.perf_counter() - started,
            "evaluations": run.attrs["evaluations"],
            "stopped": run.attrs["stopped"],
            "loss": float(run.loss[-1]),
            "error": float(run.error[-1]),
        }


def ensemble(machine: Machine) -> Iterator[Result]:
    """Descents of matrix factorizations 16 x 16 of depth 3 side by side, 2,000 steps each."""
    steps = 20 if machine.toy else 2000
    task = rl.Completion.sample(rl.targets.low_rank_matrix((16, 16), rank=2), observed=128)
    for members in (4,) if machine.toy else (256, 4096):
        for dtype in (torch.float32, torch.float64):
            nets = [rl.deep_matrix((16, 16), 3, std=0.1, seed=seed, dtype=dtype) for seed in range(members)]
            stacked = rl.stack(nets).to(machine.device)
            optimizer = torch.optim.SGD(stacked.parameters(), lr=0.1)
            rl.gradient_descent(stacked, task, optimizer, steps=5, every=5)  # the first call loads kernels
            started = time.perf_counter()
            run = rl.gradient_descent(stacked, task, optimizer, steps=steps, every=steps)
            yield {
                "members": members,
                "dtype": str(dtype),
                "steps": steps,
                "seconds": time.perf_counter() - started,
                "median_loss": float(run.loss[-1].median()),
            }


def order_784(machine: Machine) -> Iterator[Result]:
    """CP of 15 components over the 784 pixels of MNIST, the digit 6 against all others, by the published recipe."""
    name, count = ("digits", 500) if machine.toy else ("mnist", 0)
    levels = 2
    drawn = pixels.draw(pixels.Selection(name, levels, 0, count), "true", 0)
    found = pixels.against(drawn, CLASS, 2.0, torch.float32)
    train_part, test_part = (_moved(part, machine.device) for part in (found.train, found.test))
    order = train_part.images.shape[1]
    net = rl.cp((levels,) * order, RANK, dtype=torch.float32)
    net = rl.init.normal_(net, 1e-3, mean=1.0, seed=0).to(machine.device)
    optimizer = torch.optim.Adam(net.parameters(), lr=5e-4)
    steps = 20 if machine.toy else PUBLISHED_STEPS
    every = 10 if machine.toy else STEPS_BETWEEN_ROWS
    batch = 100 if machine.toy else BATCH
    started, run, done = time.perf_counter(), None, 0
    rows: list[tuple[int, float, float]] = []
    while done < steps and (not done or time.perf_counter() - started < machine.seconds):
        done = min(done + every, steps)
        run = rl.gradient_descent(
            net, train_part, optimizer, steps=done, every=every, batch_size=batch, until_loss=0.0, resume=run
        )
        with torch.no_grad():
            test = float(test_part.errors(net).clamp(max=4.0).mean()) / 4
        rows.append((done, float(run.loss[-1]) / 4, test))
    yield {
        "images": name,
        "steps": done,
        "seconds": time.perf_counter() - started,
        "seconds_per_step": (time.perf_counter() - started) / max(done, 1),
        "train_error": rows[-1][1],
        "test_error": rows[-1][2],
        "published_train_error": 0.0025,
        "published_test_error": 0.029,
        "curve": rows,
    }


def _moved(part: pixels.PixelCompletion, device: str) -> pixels.PixelCompletion:
    return pixels.PixelCompletion(part.images.to(device), part.labels.to(device))


# In the order in which they run: the job, and its share of the time.
JOBS: dict[str, tuple[Job, float]] = {
    "pairs": (pairs, 0.38),
    "pathfinder": (paths, 0.27),
    "flow": (flow, 0.12),
    "ensemble": (ensemble, 0.05),
    "order_784": (order_784, 0.18),
}


def device_name(device: str) -> str:
    """Return the name of the GPU, or of the processor's architecture."""
    return torch.cuda.get_device_name() if device == "cuda" else f"CPU, {platform.machine()}"


def load(path: Path) -> dict[str, dict[str, object]]:
    """Return the results of an earlier run in this folder, by job."""
    if not path.exists():
        return {}
    found: dict[str, dict[str, object]] = json.loads(path.read_text(encoding="utf-8"))
    return found


def save(results: dict[str, dict[str, object]], path: Path) -> None:
    """Write all results; the file is whole at every moment."""
    with writing.atomic(path) as name:
        name.write_text(json.dumps(results, indent=1), encoding="utf-8")


def draw(results: dict[str, dict[str, object]], path: Path) -> None:
    """Draw the test accuracy of every training run, and the errors of order 784, as far as they have got."""
    from ranklens import drawing

    made, axes = drawing.figure(3)
    for axis, name in zip(axes[:2], ("pairs", "pathfinder"), strict=True):
        rows = results.get(name, {}).get("rows", [])
        for k, row in enumerate(rows if isinstance(rows, list) else []):
            label = f"penalty weight {row['weight']:g}"
            axis.plot(row["epochs"], [100 * x for x in row["test"]], label=label, **drawing.style(k))
        drawing.label(axis, f"{name.capitalize()}: ResNet-18", "epoch", "test accuracy, %")
        if rows:
            axis.legend(fontsize=8)
    rows = results.get("order_784", {}).get("rows", [])
    if isinstance(rows, list) and rows:
        curve = rows[0]["curve"]
        for k, name in enumerate(("training", "test")):
            axes[2].semilogy([r[0] for r in curve], [r[1 + k] for r in curve], label=name, **drawing.style(k))
        axes[2].legend(fontsize=8)
    drawing.label(axes[2], "Order 784, digit 6, 15 components", "step", "mean squared error")
    with writing.atomic(path) as beside:
        made.savefig(beside, dpi=120)


def main(arguments: list[str] | None = None) -> int:
    """Run the jobs that are not done, and write results and figure after each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--minutes", type=float, default=9.0, help="time for all jobs together")
    parser.add_argument("--out", type=Path, default=Path("accelerator"), help="folder of results and checkpoints")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--toy", action="store_true", help="every job at a small size")
    parser.add_argument("--only", nargs="*", choices=list(JOBS), help="only these jobs")
    chosen = parser.parse_args(arguments)
    chosen.out.mkdir(parents=True, exist_ok=True)
    path = chosen.out / "results.json"
    results = load(path)
    if any(result.get("toy") != chosen.toy for result in results.values()):
        parser.error(
            f"{path} holds results of {'full' if chosen.toy else 'toy'} size; choose another folder with --out"
        )
    names = [name for name in JOBS if name in (chosen.only or JOBS)]
    print(f"{device_name(chosen.device)}; torch {torch.__version__}; order: {', '.join(names)}", flush=True)
    todo = [name for name in names if not results.get(name, {}).get("done")]
    for name in names:
        if name not in todo:
            print(f"{name}: done before, in {results[name]['seconds']:.1f} s", flush=True)
    left, shares = 60 * chosen.minutes, sum(JOBS[name][1] for name in todo)
    for name in todo:
        job, share = JOBS[name]
        begun = time.perf_counter()
        print(f"{name}: up to {max(left, 0.0) * share / shares:.0f} s", flush=True)
        rows: list[Result] = []
        results[name] = {"device": device_name(chosen.device), "toy": chosen.toy, "rows": rows, "done": False}
        for row in job(Machine(chosen.device, chosen.toy, left * share / shares, chosen.out)):
            rows.append(row)
            short = {key: value for key, value in row.items() if not isinstance(value, list)}
            print(f"  {name}: {json.dumps(short)}", flush=True)
            save(results, path)
        seconds = time.perf_counter() - begun
        results[name] |= {"done": True, "seconds": seconds}
        save(results, path)
        print(f"{name}: done in {seconds:.1f} s", flush=True)
        draw(results, chosen.out / "accelerator.png")
        left, shares = left - (time.perf_counter() - begun), shares - share
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
