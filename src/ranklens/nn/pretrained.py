"""Cut models of transformers: their `save_pretrained` writes a folder from which `restore` rebuilds them."""

import functools
import os
from pathlib import Path

from torch import nn

from ranklens.nn import saved


def with_own_saving(model: nn.Module) -> None:
    """Replace `save_pretrained` of a model of transformers by `save_folder`, in place; do nothing to other models.

    Args:
        model: a model with cut layers.
    """
    if _is_pretrained(model):
        model.__dict__["save_pretrained"] = functools.partial(save_folder, model)


def without_saving(model: nn.Module) -> None:
    """Let `save_pretrained` of a model of transformers refuse, in place; do nothing to other models.

    Args:
        model: a model whose layers have been replaced by others of torch.
    """
    if _is_pretrained(model):
        model.__dict__["save_pretrained"] = _refuse


def _is_pretrained(model: nn.Module) -> bool:
    """Return whether a model has the methods of transformers for saving."""
    return hasattr(type(model), "save_pretrained") and hasattr(getattr(model, "config", None), "save_pretrained")


def save_folder(model: nn.Module, save_directory: str | os.PathLike[str], **options: object) -> None:
    """Write the configuration of a cut model of transformers and its weights into a folder.

    `rl.nn.restore(Model(Config.from_pretrained(folder)), folder)` rebuilds the model. `from_pretrained` does not load
    the folder, because it has no file of the names that it looks for.

    Args:
        model: the model.
        save_directory: the folder; it is made if it does not exist.
        **options: options of `save_pretrained` of transformers. Those that a `Trainer` passes change nothing here; a
            `state_dict` must be that of the model itself.

    Raises:
        ValueError: if the folder is to be pushed to a server.
    """
    if options.get("push_to_hub"):
        raise ValueError("push_to_hub is set, and a folder of a cut model is only written; push the folder yourself")
    folder = Path(save_directory)
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("config", "generation_config"):
        settings = getattr(model, name, None)
        if settings is not None and hasattr(settings, "save_pretrained"):
            settings.save_pretrained(folder)
    saved.save(model, folder / saved.WEIGHTS)


def _refuse(*_: object, **__: object) -> None:
    """Refuse to save the plain form of a cut model.

    Raises:
        ValueError: always.
    """
    raise ValueError(
        "from_pretrained could not load this model, whose layers are two each; use save() of the Compression and "
        "rl.nn.restore, or torch's state_dict"
    )
