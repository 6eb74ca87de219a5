"""The outline of a study: its title, explanation, presets and settings, read from its source without importing it."""

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ranklens.studies import CHAPTER, check_name


@dataclass(frozen=True)
class Outline:
    """What a study says about itself before it is run.

    Attributes:
        title: the study's TITLE.
        explanation: the study's EXPLANATION.
        minutes: the study's MINUTES: about how many minutes each preset takes on one core.
        settings: the settings of the preset "laptop", by name.
    """

    title: str
    explanation: str
    minutes: Mapping[str, float]
    settings: Mapping[str, object]


def outline(name: str) -> Outline:
    """Return the outline of a study.

    The file of the study is parsed, not executed, because importing all studies takes seconds. TITLE, EXPLANATION,
    MINUTES, the defaults of Settings and the arguments of the preset "laptop" must therefore be literals; one that is
    not is a ValueError, as is a name that is no study.

    >>> found = outline("matrix_dynamics")
    >>> found.title, found.settings["size"]
    ('Matrix factorization learns singular values one at a time', 64)
    """
    path = Path(__file__).parent / CHAPTER[check_name(name)] / f"{name}.py"
    body = ast.parse(path.read_text(encoding="utf-8")).body
    constants = {
        target.id: node.value
        for node in body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    presets = constants["PRESETS"]
    [settings] = [node for node in body if isinstance(node, ast.ClassDef) and node.name == "Settings"]
    defaults = {
        field.target.id: ast.literal_eval(field.value)
        for field in settings.body
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and field.value is not None
    }
    [laptop] = [
        value
        for key, value in zip(presets.keys, presets.values, strict=True)  # type: ignore[attr-defined]
        if isinstance(key, ast.Constant) and key.value == "laptop"
    ]
    return Outline(
        title=ast.literal_eval(constants["TITLE"]),
        explanation=ast.literal_eval(constants["EXPLANATION"]),
        minutes=ast.literal_eval(constants["MINUTES"]),
        settings=defaults | {argument.arg: ast.literal_eval(argument.value) for argument in laptop.keywords},
    )
