"""The result of a compression: a smaller model, and a table of what changed in its layers."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Generic

import torch
import xarray as xr
from torch import Tensor, nn

from ranklens.nn import saved
from ranklens.nn.attention import SeparateAttention, joined, without_nested
from ranklens.nn.low_rank import LowRank
from ranklens.nn.model_state import M, all_names, copied, replaced
from ranklens.nn.pretrained import without_saving


@dataclass(frozen=True)
class Compression(Generic[M]):
    """A smaller model, and a table of what changed in its layers.

    Attributes:
        model: the smaller model, a copy.
        table: a Dataset over `layer`; `compress` and `prune` say which variables it has.
    """

    model: M
    table: xr.Dataset

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the smaller model to a file from which `rl.nn.restore` rebuilds it, without pickle.

        Args:
            path: the file, of safetensors with the ranks as JSON in its header. An existing file is replaced in one
                step; folders that do not exist are made.

        Returns:
            The path.

        Raises:
            ValueError: for a model with factored layers or modules with state that is no tensor; it names the layer.
        """
        return saved.save(self.model, path)

    def dense_state_dict(self) -> dict[str, Tensor]:
        """Return a state dict of the architecture before the cut: the weights of cut layers are multiplied out.

        It loads into a new model by torch alone, and for a model of transformers
        `model.save_pretrained(folder, state_dict=small.dense_state_dict())` writes what `from_pretrained` reads. The
        weights have their low ranks and all their entries, so that nothing becomes smaller.

        Returns:
            {name: tensor}, copies. A model with these weights computes the same outputs up to rounding.

        >>> import torch, ranklens as rl
        >>> make = lambda: torch.nn.Sequential(torch.nn.Linear(32, 32), torch.nn.ReLU(), torch.nn.Linear(32, 4))
        >>> small, new = rl.nn.compress(make(), rank=2), make()
        >>> new.load_state_dict(small.dense_state_dict())
        <All keys matched successfully>
        >>> bool(torch.allclose(new(torch.ones(3, 32)), small.model(torch.ones(3, 32)), atol=1e-5))
        True
        """
        model = _with_joined_attention(copied(self.model))
        pairs = {name: m for m in model.modules() if isinstance(m, LowRank) for name in all_names(model, m)}
        found: dict[str, Tensor] = {}
        for key, value in model.state_dict().items():
            cut = next((name for name in pairs if key.startswith(f"{name}." if name else "")), None)
            if cut is None:
                found[key] = value.clone()
                continue
            prefix = f"{cut}." if cut else ""
            weight, bias = pairs[cut].weight, pairs[cut].bias
            found[f"{prefix}weight"] = weight.detach().clone(memory_format=torch.contiguous_format)
            if bias is not None:
                found[f"{prefix}bias"] = bias.detach().clone()
        return found

    def plain(self) -> M:
        """Return a copy of the smaller model without classes of ranklens.

        Cut layers are `torch.nn.Sequential`. An attention layer is a `torch.nn.MultiheadAttention` again, which has no
        form of low rank, so that its projections are multiplied out: it has as many parameters as before. A Sequential
        takes the input alone, so the copy does not run where the model passes an `output_size` to a cut layer.

        Returns:
            The copy. It computes the same outputs, bit for bit, except for rounding in attention layers.

        >>> import torch, ranklens as rl
        >>> small = rl.nn.compress(torch.nn.Sequential(torch.nn.Linear(32, 32), torch.nn.ReLU()), rank=2)
        >>> [type(module).__name__ for module in small.plain().modules()]
        ['Sequential', 'Sequential', 'Linear', 'Linear', 'ReLU']
        """
        model = _with_joined_attention(copied(self.model))
        for module in list(model.modules()):
            if isinstance(module, LowRank):
                pair = nn.Sequential(*module).train(module.training)
                # Models of transformers read the dtype of `layer.weight`. This attribute is no further Parameter.
                pair.__dict__["weight"] = module[0].weight
                for name in all_names(model, module):
                    model = replaced(model, name, pair)
        without_saving(model)
        return without_nested(model)


def _with_joined_attention(model: M) -> M:
    """Return a model whose attention layers are those of torch, in place."""
    for module in list(model.modules()):
        if isinstance(module, SeparateAttention):
            for name in all_names(model, module):
                model = replaced(model, name, joined(module))
    return model
