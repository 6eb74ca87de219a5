"""The knobs of the laboratory: what can be set, within which bounds, and how settings are read from an address."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Literal
from urllib.parse import urlencode

FAMILIES = {
    "matrix": "deep matrix: a product of L matrices",
    "cp": "CP: a sum of outer products",
    "hierarchical": "hierarchical: a tree of modes",
    "train": "tensor train: a chain of nodes",
    "example": "the 2 x 2 counterexample",
    "einsum": "your own einsum",
}
OPTIMIZERS = {
    "flow": "gradient flow",
    "descent": "gradient descent",
    "adam": "Adam",
    "spectral": "spectral descent",
}


@dataclass(frozen=True)
class Knobs:
    """All settings of one run.

    Attributes:
        family: a key of `FAMILIES`.
        depth: number of factors of a deep matrix, also a fraction, for which the flow of the end matrix is followed;
            number of modes of CP, tensor train and hierarchical factorizations.
        size: size of every mode.
        width: number of components, or size of every bond; 0 for the number that never limits the rank.
        start: standard deviation of the entries of the nodes at the start; for the 2 x 2 example, the factor of the
            identity that the product starts from.
        imbalance: the first node is multiplied by exp(imbalance), and the last one by exp(-imbalance).
        rank: rank of the target.
        observed: share of the target's entries that are observed.
        noise: standard deviation of noise on the observed entries, whose own size is of order one.
        optimizer: a key of `OPTIMIZERS`.
        rate: learning rate of what is not a flow.
        seed: seed of target, observed entries and start.
        einsum: the equation of the family "einsum".
    """

    family: str = "matrix"
    depth: float = 3.0
    size: int = 16
    width: int = 0
    start: float = 1e-3
    imbalance: float = 0.0
    rank: int = 2
    observed: float = 0.5
    noise: float = 0.0
    optimizer: str = "flow"
    rate: float = 0.01
    seed: int = 0
    einsum: str = "ar,rs,sb->ab"

    @property
    def is_fraction(self) -> bool:
        """Return whether the depth is a fraction; an einsum has no depth, whatever the knob was turned to before."""
        return self.family != "einsum" and self.depth != int(self.depth)


@dataclass(frozen=True)
class Bounds:
    """How a knob is shown, and which values it takes.

    Attributes:
        label: the words beside the knob.
        help: what it does, in a sentence.
        least: the smallest value.
        most: the largest value.
        step: distance of neighbouring values of a linear slider; 0 for a slider of the logarithm.
        families: keys of the families that have this knob; empty for all.
    """

    label: str
    help: str
    least: float
    most: float
    step: float
    families: tuple[str, ...] = ()


NETWORKS = ("matrix", "cp", "hierarchical", "train", "einsum")
BOUNDS: dict[str, Bounds] = {
    "depth": Bounds(
        "depth or order",
        "The number of factors of a matrix, also a fraction; the number of modes of a tensor.",
        1.0,
        6.0,
        0.5,
        ("matrix", "cp", "hierarchical", "train", "example"),
    ),
    "size": Bounds("size", "The size of every mode of the target.", 2, 64, 1, NETWORKS),
    "width": Bounds(
        "width",
        "The number of components, or size of every bond. At 0 it never limits the rank.",
        0,
        128,
        1,
        NETWORKS,
    ),
    "start": Bounds("start size", "The standard deviation of the entries at the start.", 1e-6, 1.0, 0),
    "imbalance": Bounds(
        "imbalance", "The first node is made larger by this power of e, the last smaller.", -3, 3, 0.25
    ),
    "rank": Bounds("rank of the target", "The number of components that the target has.", 1, 16, 1, NETWORKS),
    "observed": Bounds(
        "share observed", "The share of the target's entries that are fitted.", 0.05, 1.0, 0.05, NETWORKS
    ),
    "noise": Bounds("noise", "The standard deviation of noise on the observed entries.", 0.0, 1.0, 0.05, NETWORKS),
    "rate": Bounds("learning rate", "The step size of descents; the flow has none.", 1e-4, 1.0, 0),
    "seed": Bounds("seed", "Another seed is another target, other holes and another start.", 0, 99, 1),
}
# Largest number of parameters, and of entries of the target, of a run: an answer within seconds.
MOST_PARAMETERS, MOST_ENTRIES = 40_000, 20_000
LONGEST_EINSUM = 40  # characters

PRESETS: dict[str, tuple[str, Knobs]] = {
    "matrix": ("A deep matrix learns singular values one at a time", Knobs()),
    "shallow": ("Depth 1 fits without lowering the rank", Knobs(depth=1.0)),
    "deep": ("Depth 4: slower to start, and sharper", Knobs(depth=4.0, start=1e-2)),
    "example": (
        "The 2 x 2 example: the loss falls while every norm grows",
        Knobs(family="example", depth=3.0, start=1e-3),
    ),
    "tensor": ("CP learns components one at a time", Knobs("cp", depth=3, size=8, width=24, start=1e-2, rank=2)),
    "hierarchical": (
        "A hierarchical factorization learns local components one at a time",
        Knobs("hierarchical", depth=4, size=5, width=8, start=0.1, rank=2, observed=0.6),
    ),
    "large": ("A large start: no plateaus, and the rank is not lowered", Knobs(start=0.3)),
    "fraction": ("Depth 2.5, which no product of matrices has", Knobs(depth=2.5, start=1e-2)),
    "adam": ("Adam breaks the law", Knobs(optimizer="adam", rate=1e-3)),
}

Numbers = Literal["int", "float", "str"]


def parse(query: Mapping[str, str]) -> Knobs:
    """Return the knobs that the parameters of an address set; knobs that are not named keep their first value.

    Args:
        query: texts by the name of a knob. Other names are ignored.

    Raises:
        ValueError: for a value that is no number or out of bounds; it names the knob and its bounds.

    >>> parse({"family": "cp", "depth": "3", "size": "5"}).size
    5
    """
    found: dict[str, object] = {}
    for field in fields(Knobs):
        if field.name not in query:
            continue
        text = query[field.name]
        if field.name in BOUNDS:
            found[field.name] = _number(field.name, text, whole=field.type is int)
        else:
            found[field.name] = text
    return check(replace(Knobs(), **found))  # type: ignore[arg-type]


def _number(name: str, text: str, *, whole: bool) -> float | int:
    """Return a number within the bounds of a knob.

    Raises:
        ValueError: if the text is no such number.
    """
    bounds = BOUNDS[name]
    try:
        value = float(text)
    except ValueError as error:
        raise ValueError(f"{name} is {text[:20]!r}; it must be a number") from error
    if not math.isfinite(value) or not bounds.least <= value <= bounds.most or (whole and value != int(value)):
        kind = "a whole number" if whole else "a number"
        raise ValueError(f"{name} is {text[:20]}; it must be {kind} from {bounds.least:g} to {bounds.most:g}")
    return int(value) if whole else value


def check(knobs: Knobs) -> Knobs:
    """Return knobs unchanged, after checking that they go together and that their run is small enough.

    Raises:
        ValueError: if not; it says which knob to turn.
    """
    if knobs.family not in FAMILIES:
        raise ValueError(f"family is {knobs.family[:20]!r}; it must be one of {', '.join(FAMILIES)}")
    if knobs.optimizer not in OPTIMIZERS:
        raise ValueError(f"optimizer is {knobs.optimizer[:20]!r}; it must be one of {', '.join(OPTIMIZERS)}")
    if knobs.family == "einsum" and len(knobs.einsum) > LONGEST_EINSUM:
        raise ValueError(f"the einsum has {len(knobs.einsum)} characters; it may have {LONGEST_EINSUM}")
    if knobs.is_fraction and knobs.family not in ("matrix", "example"):
        raise ValueError(
            f"order is {knobs.depth:g}; a tensor has a whole number of modes, only a deep matrix a depth between"
        )
    if knobs.is_fraction and (knobs.optimizer != "flow" or knobs.imbalance):
        raise ValueError(f"depth is {knobs.depth:g}; a fraction has a balanced flow only; take a whole depth")
    if knobs.family in ("cp", "train", "hierarchical") and knobs.depth < 2:
        raise ValueError(f"order is {knobs.depth:g}; a tensor has at least 2 modes here")
    order = 2 if knobs.family in ("matrix", "example") else int(knobs.depth)
    if knobs.family != "einsum" and knobs.size**order > MOST_ENTRIES:
        raise ValueError(
            f"the target would have {knobs.size**order} entries, more than {MOST_ENTRIES}; take a smaller size or order"
        )
    return knobs


def query(knobs: Knobs) -> str:
    """Return knobs as the parameters of an address, from which `parse` reads them: those that are not as at first.

    >>> query(Knobs(size=8))
    'size=8'
    """
    first = asdict(Knobs())
    return urlencode({name: value for name, value in asdict(knobs).items() if value != first[name]})
