"""Reading of the weights in a checkpoint: one file or several, one tensor at a time.

No code in a file is run: files of `torch.save` are read with `weights_only=True`.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ranklens.nn import saved
from ranklens.nn.file_kind import file_kind, what_instead
from ranklens.nn.saved_networks import saved_networks
from ranklens.nn.stored_parts import CutLayer
from ranklens.tensors.annotations import checked

# Names of the file that holds the weights of a model in a folder with other files, the preferred one first.
WEIGHT_FILES = ("model.safetensors", "adapter_model.safetensors", "pytorch_model.bin", "adapter_model.bin")
# Files that are looked for in a folder that has none of these, the preferred pattern first.
PATTERNS = ("*.index.json", "*.safetensors", "*.pt", "*.pth", "*.bin", "*.ckpt")
# Files of a training run that hold no weights of a model, by the beginning of the name.
OTHER_FILES = ("optim", "sched", "scaler", "rng_state", "random_states", "training_args", "trainer_state")
# How files are named that hold one model in several parts: part, and number of parts.
PART = re.compile(r"^(?P<stem>.*)-(?P<part>\d+)-of-(?P<parts>\d+)(?P<suffix>\.\w+)$")
# Bytes of tensors that are read before a file is closed and opened again. Pages of a file stay in memory while it is
# open, so this bounds the memory for weights that have been read already.
MOST_OPEN = 2**28


class StoredWeights(Mapping[str, Tensor]):
    """The weights in a checkpoint: a mapping of names to tensors that reads a tensor when it is looked up.

    Tensors are views of their file, whose numbers are read when they are used. Drop a tensor before the next one is
    looked up, and memory for one of them suffices, however large the checkpoint is.

    Args:
        path: what `load_weights` takes.

    Attributes:
        path: the path that was given.
        shared: {name: another name} for every tensor that is stored under an earlier name, too, as tied weights are in
            files of `torch.save`.
        cuts: the layers that were cut, by name, and how their two layers make the weight, in a file that
            `Compression.save` wrote.

    Raises:
        FileNotFoundError: if there is no such file, or a part of the checkpoint is missing.
        ValueError: if a file cannot be read or holds no weights, or is a link that leads out of the folder.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._files = _files(self.path)
        self._opened: tuple[Path, Mapping[str, Tensor]] | None = None
        self._read = 0
        self._where: dict[str, Path] = {}
        self.shared: dict[str, str] = {}
        self.cuts: dict[str, CutLayer] = {}
        for file, names in self._files.items():
            held = self._open(file)
            self.shared |= _shared(held) if isinstance(held, dict) else {}
            self.cuts |= held.cuts() if isinstance(held, _SafeTensors) else {}
            for name in held if names is None else names:
                if name not in held:
                    raise ValueError(
                        f"the index says that {file.name!r} holds {name!r}, which it does not; the shard is damaged"
                    )
                self._where[name] = file

    def __getitem__(self, name: str) -> Tensor:
        tensor = self._open(self._where[name])[name]
        self._read += tensor.numel() * tensor.itemsize
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._where)

    def __len__(self) -> int:
        return len(self._where)

    def _open(self, file: Path) -> Mapping[str, Tensor]:
        """Return the tensors of a file by name, after it was opened again if much of it has been read."""
        if self._opened is None or self._opened[0] != file or self._read > MOST_OPEN:
            self._opened, self._read = None, 0
            self._opened = (file, _SafeTensors(file) if file_kind(file) == "safetensors" else saved_networks(file))
        return self._opened[1]


class _SafeTensors(Mapping[str, Tensor]):
    """The tensors in a safetensors file."""

    def __init__(self, file: Path) -> None:
        self._file = file
        try:
            self._stored = safe_open(file, framework="pt")
            self._names = dict.fromkeys(self._stored.keys())
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{file} cannot be read: {error}") from error

    def cuts(self) -> dict[str, CutLayer]:
        """Return the cut layers that the header of the file tells of; none if it is no file of `Compression.save`.

        Raises:
            ValueError: if the header is damaged.
        """
        try:
            told = saved.structure(self._stored.metadata())
            return {} if told is None else saved.cut_layers(told)
        except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
            raise ValueError(f"the header of {self._file} is damaged: {error!r}") from error

    def __getitem__(self, name: str) -> Tensor:
        try:
            return self._stored.get_tensor(name)
        except (SafetensorError, RuntimeError, AttributeError, KeyError, TypeError) as error:
            kind = self._stored.get_slice(name).get_dtype()
            raise ValueError(f"tensor {name!r} of {self._file} is stored as {kind}: {error}") from error

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


@checked
def load_weights(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Return the weights in a checkpoint, by name, all in memory.

    The content of a file decides how it is read, not its name. A file that cannot be read or holds no weights, and an
    index that does not fit its shards, are refused with a ValueError that names the file and says what it is. Objects
    beside the weights in a file of `torch.save`, such as the arguments of the training script, are left out, and no
    code of theirs is run. Several networks in one file come with the key of their network before each name; the state
    of an optimizer is not a network.

    Args:
        path: one of: a safetensors file; a file of `torch.save`; an index of shards (.index.json) whose shards are in
            the same folder, or one of the shards (name-00001-of-00005.safetensors); or a folder that contains one of
            these, and possibly other files of a training run. Links in a folder are followed within the folder, and
            in a snapshot of a cache of the Hugging Face hub to the cache's blobs.

    Returns:
        {name: tensor}, on the CPU and with the dtypes of the file.

    Raises:
        FileNotFoundError: if the file does not exist. A missing shard, and a folder without a checkpoint, raise it too.

    >>> import tempfile, torch, ranklens as rl
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     torch.save({"epoch": 3, "model": torch.nn.Linear(2, 3).state_dict()}, f"{folder}/last.pt")
    ...     list(rl.nn.load_weights(f"{folder}/last.pt"))
    ['weight', 'bias']
    """
    return {name: _copied(tensor) for name, tensor in StoredWeights(path).items()}


def _shared(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Return the names of tensors that are earlier ones once more, with the earlier names."""
    first: dict[tuple[object, ...], str] = {}
    found = {}
    for name, tensor in tensors.items():
        if _is_strided(tensor) and tensor.numel():
            earlier = first.setdefault((tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()), name)
            if earlier != name:
                found[name] = earlier
    return found


def _copied(tensor: Tensor) -> Tensor:
    """Return a copy that needs no file. A tensor that repeats few stored numbers many times is not written out."""
    if not _is_strided(tensor) or tensor.untyped_storage().nbytes() < tensor.numel() * tensor.itemsize:
        return tensor
    return tensor.clone()


def _is_strided(tensor: Tensor) -> bool:
    """Return whether the entries of a tensor are at places that its strides give; a nested tensor has no strides."""
    return tensor.layout == torch.strided and not tensor.is_nested


def _files(path: Path) -> dict[Path, list[str] | None]:
    """Return the files of a checkpoint, each with the names of its tensors as an index says, or None for all.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: for a link that leads out of the folder.
    """
    file = _within(path) if path.is_dir() else path
    if not _is_file(file):
        raise FileNotFoundError(f"there is no checkpoint {file}")
    _check_link(file, path)
    found = _shards(file) if file.name.endswith(".index.json") else _parts(file)
    for part in found:
        _check_link(part, path)
    return found


def _within(folder: Path) -> Path:
    """Return the checkpoint in a folder: the file of a usual name, or the one file of the first pattern that fits.

    Raises:
        FileNotFoundError: if there is no checkpoint.
        ValueError: if there are several.
    """
    for pattern in ("*.safetensors.index.json", *WEIGHT_FILES, *PATTERNS):
        found = [file for file in sorted(folder.glob(pattern)) if not file.name.lower().startswith(OTHER_FILES)]
        parts = [PART.match(file.name) for file in found]
        if len(found) == 1 or (found and all(parts) and len({part["stem"] for part in parts if part}) == 1):
            return found[0]
        if found:
            raise ValueError(f"{folder} has {len(found)} files {pattern} and no index; give the path of one of them")
    below = {file.parent for pattern in PATTERNS for file in folder.glob(f"*/{pattern}")}
    others = f"; its folders {', '.join(sorted(path.name for path in below))} have some, so give one of them"
    raise FileNotFoundError(
        f"{folder} has no checkpoint: no .safetensors, .pt, .pth, .bin, .ckpt or .index.json{others if below else ''}"
    )


def _parts(file: Path) -> dict[Path, list[str] | None]:
    """Return a file, or all parts of the model of which it is a part.

    Raises:
        FileNotFoundError: if a part is missing.
    """
    found = PART.match(file.name)
    if found is None or not 0 < int(found["part"]) <= int(found["parts"]):
        return {file: None}
    digits, parts = len(found["part"]), found["parts"]
    files: dict[Path, list[str] | None] = {}
    for part in range(1, int(parts) + 1):
        each = file.with_name(f"{found['stem']}-{part:0{digits}}-of-{parts}{found['suffix']}")
        if not _is_file(each):
            raise FileNotFoundError(f"{file} is one of {int(parts)} parts, and {each.name} is missing")
        files[each] = None
    return files


def _shards(index: Path) -> dict[Path, list[str] | None]:
    """Return the shards that an index names, each with the names of its tensors.

    Raises:
        FileNotFoundError: if a shard is missing.
        ValueError: if the index is damaged, or names a file in another folder.
    """
    told = what_instead(index)
    if told is not None:
        raise ValueError(f"{index} {told}")
    try:
        names = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        files = sorted(set(names.values()))
        if not files or not all(isinstance(name, str) for name in files):
            raise ValueError("shards are named by texts")
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise ValueError(f"{index} is no index of shards: it has no weight_map from names to file names") from error
    for name in files:
        if Path(name).name != name:
            raise ValueError(
                f"{index} names {name!r}, which is not a file beside it; shards must be in the folder of the index"
            )
        if not _is_file(index.parent / name):
            lost = "is a link to a missing file" if os.path.islink(index.parent / name) else "is not in its folder"
            raise FileNotFoundError(f"{index} names {name!r}, which {lost}; put the shard there")
    return {index.parent / file: [name for name, shard in names.items() if shard == file] for file in files}


def _check_link(file: Path, named: Path) -> None:
    """Refuse a file that was found in a folder and is a link out of it, because nobody asked for the other file.

    A link in a snapshot of a cache of the Hugging Face hub is followed into the cache's folder of blobs, where the hub
    keeps the files of all snapshots. A link that the user named is followed wherever it leads.

    Args:
        file: the file.
        named: the path that the user gave: the file itself, another file in its folder, or the folder.

    Raises:
        ValueError: for a link that leads out of the folder.
    """
    if file == named:
        return
    folder, target = file.parent.resolve(), file.resolve()
    allowed = [folder, *(parent.parent / "blobs" for parent in folder.parents if parent.name == "snapshots")]
    if not any(target.is_relative_to(each) for each in allowed):
        raise ValueError(
            f"{file} is a link to {target}, outside of its folder, and such links are followed only where they are "
            f"named; give {target} itself, or put the files into one folder"
        )


def _is_file(path: Path) -> bool:
    """Return whether there is a file of a name, which may be too long for any."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False
