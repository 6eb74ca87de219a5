"""An entry of a store: what is known of one run without opening its files."""

import json
from dataclasses import asdict, dataclass, field

import numpy as np

from ranklens.sweeps.settings import Setting

DONE, FAILED = "done", "failed"


@dataclass(frozen=True)
class File:
    """A file of a run: its name inside the run's folder, its size in bytes, and the SHA-256 of its content."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Variable:
    """A variable of a record: its dimensions, shape and dtype, whether it is a coordinate, and a digest of one.

    Attributes:
        dims: names of its dimensions.
        shape: sizes of its dimensions.
        dtype: its dtype, as numpy writes it.
        coordinate: whether it is a coordinate.
        head: its first three values, if it is the coordinate of a dimension.
        digest: identifies all its values, if it is the coordinate of a dimension.
        values: all its values, if the record is kept inside the entry.
    """

    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    coordinate: bool = False
    head: tuple[Setting, ...] = ()
    digest: str = ""
    values: object = None


@dataclass(frozen=True)
class Entry:
    """One run in a store.

    Attributes:
        key: the digest that names it.
        what: the function or study.
        code: the digest of its code.
        version: the version of ranklens.
        settings: its settings.
        state: "done" or "failed".
        stopped: why it stopped, in one word.
        early: whether that was before its goal.
        seconds: wall-clock time that it took.
        counts: its evaluations and steps, where it has them.
        failure: the traceback of a failed run.
        warned: the warnings that it gave.
        ended: the date and time at which it ended, in UTC; information only.
        variables: the variables of its record.
        record: the file of its record, or None.
        networks: the files of its networks, by name.
    """

    key: str
    what: str
    code: str
    version: str
    settings: dict[str, Setting]
    state: str
    stopped: str
    early: bool
    seconds: float
    counts: dict[str, int] = field(default_factory=dict)
    failure: str = ""
    warned: tuple[str, ...] = ()
    ended: str = ""
    variables: dict[str, Variable] = field(default_factory=dict)
    record: File | None = None
    networks: dict[str, File] = field(default_factory=dict)

    def files(self) -> list[File]:
        """Return all files of the run."""
        return [*([self.record] if self.record is not None else []), *self.networks.values()]

    def error(self) -> str:
        """Return the last line of the traceback, which names the error, or the empty string."""
        return self.failure.strip().splitlines()[-1] if self.failure.strip() else ""

    def to_json(self) -> str:
        """Return the entry as JSON text."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str | bytes) -> "Entry":
        """Return the entry that `to_json` wrote.

        Raises:
            ValueError: for a text that it did not write.
        """
        try:
            told = json.loads(text)
            told["settings"] = {name: _tuples(value) for name, value in told["settings"].items()}
            told["warned"] = tuple(told["warned"])
            told["variables"] = {
                name: Variable(
                    **{**each, "dims": tuple(each["dims"]), "shape": tuple(each["shape"]), "head": tuple(each["head"])}
                )
                for name, each in told["variables"].items()
            }
            told["record"] = None if told["record"] is None else File(**told["record"])
            told["networks"] = {name: File(**each) for name, each in told["networks"].items()}
            return Entry(**told)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ValueError(f"it is no entry of a run: {type(error).__name__}: {error}") from error


def stored_values(variable: Variable) -> np.ndarray:
    """Return the values of a variable that is kept inside its entry."""
    return np.asarray(variable.values, dtype=np.dtype(variable.dtype)).reshape(variable.shape)


def _tuples(value: object) -> object:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value
