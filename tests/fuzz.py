"""Feed damaged input to every reader: `make fuzz`, or `python tests/fuzz.py --seconds 600 netcdf` for one reader.

Each reader runs in a process of its own. It is given valid input with bytes flipped, cut, doubled and spliced, and
random text. It may return, or raise a ValueError, a TypeError or an OSError; anything else is a fault: another
exception, an input that takes over ten seconds, a process that dies, more than one GiB of memory, or a file outside the
folder of the run.
"""

import argparse
import json
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

HANG = 10  # seconds for one input
MEMORY = 2**30  # bytes that a reader may add to those of its process after its valid input
ALLOWED = (ValueError, TypeError, OSError)
Reader = Callable[[bytes], object]


def netcdf(folder: Path) -> tuple[list[bytes], Reader]:
    """Records."""
    import xarray as xr

    import ranklens as rl

    made = rl.save(
        xr.Dataset({"loss": ("time", [1.0, 0.5])}, {"time": [0.0, 1.0]}, {"note": [1, "a"]}), folder / "a.nc"
    )
    return [made.read_bytes()], _from_file(rl.load, folder / "in.nc")


def network(folder: Path) -> tuple[list[bytes], Reader]:
    """Networks."""
    import ranklens as rl

    return [rl.save(rl.cp((2, 3), rank=2), folder / "a.safetensors").read_bytes()], _from_file(rl.load, folder / "in.x")


def checkpoint(folder: Path) -> tuple[list[bytes], Reader]:
    """Files of torch.save and safetensors."""
    import torch
    from safetensors.torch import save

    import ranklens as rl

    model = torch.nn.Linear(3, 2).state_dict()
    torch.save({"model": model, "epoch": 3}, folder / "a.pt")
    torch.save(model, folder / "b.pt", _use_new_zipfile_serialization=False)
    seeds = [(folder / "a.pt").read_bytes(), (folder / "b.pt").read_bytes(), save(model)]
    return seeds, _from_file(rl.nn.load_weights, folder / "in.pt")


def index(folder: Path) -> tuple[list[bytes], Reader]:
    """Indices of shards."""
    import torch
    from safetensors.torch import save_file

    import ranklens as rl

    save_file({"w": torch.ones(2, 2)}, folder / "s.safetensors")
    seed = json.dumps({"metadata": {}, "weight_map": {"w": "s.safetensors"}}).encode()
    return [seed], _from_file(rl.nn.load_weights, folder / "in.index.json")


def idx(folder: Path) -> tuple[list[bytes], Reader]:
    """Images of MNIST."""
    from ranklens.data import formats

    return [bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 2, 0, 0, 0, 2]) + bytes(8)], formats.idx


def cifar(folder: Path) -> tuple[list[bytes], Reader]:
    """Images of CIFAR-10."""
    from ranklens.data import formats

    return [bytes([3]) + bytes(3072)], formats.cifar


def ratings(folder: Path) -> tuple[list[bytes], Reader]:
    """Ratings of MovieLens."""
    from ranklens.data import formats

    return [b"1\t2\t3\t880\n2\t1\t4\t881\n"], formats.movielens


def settings(folder: Path) -> tuple[list[bytes], Reader]:
    """Settings of studies, as the command line gives them."""
    from ranklens import studies

    first = studies.preset("matrix_dynamics", "laptop")
    return [b"seeds=[1, 2]", b"size=32", b"std=1e-3"], lambda data: studies.override(
        first, [data.decode("utf-8", "replace")]
    )


def einsum(folder: Path) -> tuple[list[bytes], Reader]:
    """Einsum strings."""
    import torch

    import ranklens as rl

    def read(data: bytes) -> object:
        text = data.decode("utf-8", "replace")
        shapes = [(2,) * min(len(part), 6) for part in text.partition("->")[0].split(",")]
        return rl.TensorNetwork(text, [torch.ones(shape, dtype=torch.float64) for shape in shapes[:8]])

    return [b"ar,br,cr->abc", b"ab,bc->ac"], read


def address(folder: Path) -> tuple[list[bytes], Reader]:
    """Addresses of the laboratory."""
    from urllib.parse import parse_qsl

    from ranklens.lab.knobs import parse

    return [b"size=8&start=0.01&family=cp&depth=3"], lambda data: parse(
        dict(parse_qsl(data.decode("utf-8", "replace")))
    )


def table(folder: Path) -> tuple[list[bytes], Reader]:
    """Tables pasted into the laboratory."""
    from ranklens.lab.tables import read_table

    return [b"a,b\n1,2\n3,\n", b"1 2\n3 ?\n"], lambda data: read_table(data.decode("utf-8", "replace"))


def upload(folder: Path) -> tuple[list[bytes], Reader]:
    """Checkpoints dropped into the laboratory."""
    import torch
    from safetensors.torch import save

    from ranklens.lab.tables import profile

    return [save({"w": torch.randn(4, 3), "b": torch.ones(3)})], _from_file(profile, folder / "in.safetensors")


READERS = {
    f.__name__: f
    for f in (netcdf, network, checkpoint, index, idx, cifar, ratings, settings, einsum, address, table, upload)
}


def _from_file(read: Callable[[Path], object], path: Path) -> Reader:
    """Return a reader of bytes that writes them to a file first."""

    def reader(data: bytes) -> object:
        path.write_bytes(data)
        return read(path)

    return reader


def damaged(seeds: list[bytes], draw: random.Random) -> bytes:
    """Return a seed with a few damages, or something random."""
    data = bytearray(draw.choice(seeds))
    for _ in range(draw.randint(1, 6)):
        at = draw.randrange(len(data) + 1)
        kind = draw.randrange(7)
        if kind == 0 and data:
            data[at % len(data)] ^= 1 << draw.randrange(8)
        elif kind == 1:
            data[at : at + draw.randint(1, 8)] = draw.randbytes(draw.randint(0, 8))
        elif kind == 2:
            del data[at:]
        elif kind == 3:
            data[at:at] = data[: draw.randint(0, min(len(data), 4096))]
        elif kind == 4:
            data[at : at + 4] = draw.choice(
                [b"\xff" * 4, b"\x00" * 4, b"\x7f\xff\xff\xff", b"9" * 12, b"[" * 2000, b"nan"]
            )
        elif kind == 5:
            other = draw.choice(seeds)
            data[at:] = other[draw.randrange(len(other) + 1) :]
        else:
            data[at:at] = "".join(
                chr(draw.choice([0, 9, 10, 34, 44, 45, 62, 91, 123, 233, 0x2028, 0x1F600])) for _ in range(4)
            ).encode()
    return bytes(data)


def attack(name: str, seconds: float, seed: int) -> int:
    """Feed one reader for some seconds, print a line per fault, and return their number."""
    faults, count, draw = 0, 0, random.Random(seed)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        seeds, read = READERS[name](folder)
        for valid in seeds:
            read(valid)
        known = {path.name for path in folder.iterdir()} | {"in.nc", "in.x", "in.pt", "in.index.json", "in.safetensors"}
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        end = time.monotonic() + seconds

        def hang(*_: object) -> None:
            raise AssertionError("hang")

        signal.signal(signal.SIGALRM, hang)
        while time.monotonic() < end:
            data = damaged(seeds, draw)
            count += 1
            signal.alarm(HANG)
            try:
                read(data)
            except ALLOWED:
                pass
            except BaseException as error:  # whatever it is, it is a fault
                faults += 1
                kept = Path(tempfile.gettempdir()) / f"ranklens-fuzz-{name}-{count}"
                kept.write_bytes(data)
                print(f"{name}: {type(error).__name__}: {str(error)[:200]} (input kept in {kept})", flush=True)
            finally:
                signal.alarm(0)
            if strange := {path.name for path in folder.iterdir()} - known:
                faults += 1
                print(f"{name}: files {strange} were written", flush=True)
                known |= strange
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
        if grown > MEMORY:
            faults += 1
            print(f"{name}: memory grew by {grown / 2**20:.0f} MiB", flush=True)
        print(f"{name}: {count} inputs, {faults} faults, {grown / 2**20:.0f} MiB more", flush=True)
    return faults


def main() -> None:
    """Attack the readers that are named, or all, each in a process of its own; exit code 1 if there is a fault."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("readers", nargs="*", choices=[[], *READERS])
    parser.add_argument("--seconds", type=float, default=600.0, help="seconds for each reader")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--here", action="store_true", help="attack the one reader that is named in this process")
    given = parser.parse_args()
    if given.here:
        sys.exit(attack(given.readers[0], given.seconds, given.seed) > 0)
    codes = {}
    for name in given.readers or READERS:
        command = [sys.executable, __file__, name, "--here", "--seconds", str(given.seconds), "--seed", str(given.seed)]
        codes[name] = subprocess.run(command, check=False).returncode
        if codes[name] < 0:
            print(f"{name}: its process died by signal {-codes[name]}")
    sys.exit(any(codes.values()))


if __name__ == "__main__":
    main()
