"""The scale of a low-rank adapter, from the configuration beside its weights."""

import json
import math
import re
from collections.abc import Callable
from pathlib import Path

# Name of the file in which PEFT writes the settings of an adapter, beside its weights.
CONFIGURATION = "adapter_config.json"


def stored_scale(path: Path) -> Callable[[str, int], float] | None:
    """Return the function that gives the scale of an adapter, from the configuration that PEFT writes beside it.

    The change of a weight is s B A, with s = alpha / r for factors of rank r, or alpha / sqrt(r) if the configuration
    says "use_rslora". A scale changes no rank, but the norm and the singular values.

    Args:
        path: a folder, or a file in that folder.

    Returns:
        A function of the name of a layer and of the rank of its adapter; None if there is no configuration.

    Raises:
        ValueError: if the configuration is damaged, or of an adapter of another kind than a low-rank product.

    >>> import json, pathlib, tempfile
    >>> from ranklens.nn.adapter import stored_scale
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> told = {"lora_alpha": 16, "r": 8, "alpha_pattern": {"q_proj": 32}}
    >>> _ = (folder / "adapter_config.json").write_text(json.dumps(told))
    >>> scale = stored_scale(folder)
    >>> scale("layers.0.v_proj", 8), scale("layers.0.q_proj", 8)
    (2.0, 4.0)
    """
    file = (path if path.is_dir() else path.parent) / CONFIGURATION
    if not file.is_file():
        return None
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is no configuration in JSON: {error}") from error
    kind = told.get("peft_type") if isinstance(told, dict) and "lora_alpha" not in told else None
    if kind is not None:
        raise ValueError(
            f"{file} is of an adapter of type {kind}, whose change of a weight is no product B A; merge the adapter "
            f"into its model, and compare it with the model before (--against)"
        )
    try:
        alpha, is_root = float(told["lora_alpha"]), bool(told.get("use_rslora", False))
        alphas = {re.compile(rf"(.*\.)?({name})$"): float(x) for name, x in (told.get("alpha_pattern") or {}).items()}
    except (ValueError, TypeError, KeyError, AttributeError, re.error) as error:
        raise ValueError(f"{file} is no configuration of a low-rank adapter with lora_alpha: {error!r}") from error

    def scale(layer: str, rank: int) -> float:
        own = next((x for pattern, x in alphas.items() if pattern.match(layer)), alpha)
        return own / (math.sqrt(rank) if is_root else rank)

    return scale
