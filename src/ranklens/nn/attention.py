"""Multi-head attention whose four projections are layers of their own, so that each can be cut."""

import copy

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ranklens.nn.layer_kinds import owners
from ranklens.nn.model_state import M, replaced


class SeparateAttention(nn.Module):
    """The function of `torch.nn.MultiheadAttention`, with its projections as four layers.

    Args:
        layer: the layer of torch, whose Parameters are copied.

    Attributes:
        q_proj: projection of the queries; a Linear layer or two layers of lower rank, as for the others.
        k_proj: projection of the keys.
        v_proj: projection of the values.
        out_proj: projection of the result.
        bias_k: a key that is added to all others, or None.
        bias_v: its value, or None.
    """

    # The transformer layers of torch read these of their attention layer. They then call it like any other.
    _qkv_same_embed_dim = False
    in_proj_bias = None
    in_proj_weight = None

    def __init__(self, layer: nn.MultiheadAttention) -> None:
        super().__init__()
        self.embed_dim, self.num_heads, self.head_dim = layer.embed_dim, layer.num_heads, layer.head_dim
        self.kdim, self.vdim = layer.kdim, layer.vdim
        self.dropout, self.batch_first, self.add_zero_attn = layer.dropout, layer.batch_first, layer.add_zero_attn
        weights = _input_weights(layer)
        biases = [None] * 3 if layer.in_proj_bias is None else list(layer.in_proj_bias.detach().chunk(3))
        trained = next(layer.parameters()).requires_grad
        self.q_proj, self.k_proj, self.v_proj = (_linear(w, b, trained) for w, b in zip(weights, biases, strict=True))
        self.out_proj: nn.Module = _linear(layer.out_proj.weight.detach(), _value(layer.out_proj.bias), trained)
        self.bias_k, self.bias_v = copy.deepcopy(layer.bias_k), copy.deepcopy(layer.bias_v)
        self.train(layer.training)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Return the attention of queries to keys, as `torch.nn.MultiheadAttention` does.

        Args:
            query: (batch, targets, embed_dim) with `batch_first`, else (targets, batch, embed_dim); the axis of the
                batch may be missing.
            key: as `query`, with `sources` places and `kdim` features.
            value: as `key`, with `vdim` features.
            key_padding_mask: (batch, sources), True or minus infinity at keys that are left out.
            need_weights: whether to return the weights of the attention too.
            attn_mask: (targets, sources) or (batch * num_heads, targets, sources), True or minus infinity at pairs that
                are left out.
            average_attn_weights: whether the weights are averaged over the heads.
            is_causal: a hint that `attn_mask` is causal, which is not used: the mask decides.

        Returns:
            The result, of the shape of `query`, and the weights or None.

        Raises:
            ValueError: if `is_causal` is set without a mask.
        """
        if is_causal and attn_mask is None:
            raise ValueError("is_causal is set, but attn_mask is None; give the causal mask")
        single, turned = query.ndim == 2, not self.batch_first and query.ndim == 3
        shared = {id(x): _batch_first(x, single, turned) for x in (query, key, value)}
        query, key, value = (shared[id(x)] for x in (query, key, value))  # equal inputs stay one tensor
        q, k, v = self.q_proj(query), self.k_proj(key), self.v_proj(value)
        if key_padding_mask is not None and single:
            key_padding_mask = key_padding_mask[None]
        k, v, added = self._with_extra_keys(k, v)
        q, k, v = (x.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2) for x in (q, k, v))
        mask = _one_mask(attn_mask, key_padding_mask, q, added)
        rate = self.dropout if self.training else 0.0
        if need_weights:
            scores = q @ k.mT * self.head_dim**-0.5
            weights = torch.softmax(scores if mask is None else scores + mask, dim=-1)
            mixed = nn.functional.dropout(weights, rate) @ v
        else:
            mixed = nn.functional.scaled_dot_product_attention(q, k, v, mask, rate)
        result: Tensor = self.out_proj(mixed.transpose(1, 2).flatten(2))
        result = result[0] if single else result.transpose(0, 1) if turned else result
        if not need_weights:
            return result, None
        weights = weights.mean(1) if average_attn_weights else weights
        return result, weights[0] if single else weights

    def _with_extra_keys(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, int]:
        """Return keys and values with those that every sample gets in addition, and the number of these."""
        added = 0
        if self.bias_k is not None and self.bias_v is not None:
            k, v = (torch.cat([x, b.expand(len(x), 1, -1)], 1) for x, b in ((k, self.bias_k), (v, self.bias_v)))
            added += 1
        if self.add_zero_attn:
            k, v = (torch.cat([x, x.new_zeros(len(x), 1, x.shape[-1])], 1) for x in (k, v))
            added += 1
        return k, v, added


def _batch_first(x: Tensor, single: bool, turned: bool) -> Float[Tensor, "batch places features"]:
    """Return activations with the batch as first axis."""
    return x[None] if single else x.transpose(0, 1) if turned else x


def _one_mask(attention: Tensor | None, padding: Tensor | None, q: Tensor, added: int) -> Tensor | None:
    """Return both masks as one that is added to the scores, with zeros for keys that were added at the end."""
    batch, heads = q.shape[:2]
    parts = []
    if attention is not None:
        wide = _additive(attention, q.dtype)
        parts.append(wide if wide.ndim == 2 else wide.unflatten(0, (batch, heads)))
    if padding is not None:
        parts.append(_additive(padding, q.dtype)[:, None, None, :])
    return nn.functional.pad(sum(parts[1:], parts[0]), (0, added)) if parts else None


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a mask as numbers to add to scores: minus infinity where a boolean mask is True."""
    return torch.zeros_like(mask, dtype=dtype).masked_fill(mask, -torch.inf) if mask.dtype == torch.bool else mask


def _value(parameter: Tensor | None) -> Tensor | None:
    """Return the value of a Parameter that may be missing."""
    return None if parameter is None else parameter.detach()


def _input_weights(layer: nn.MultiheadAttention) -> list[Tensor]:
    """Return the weights of the projections of query, key and value."""
    if layer.in_proj_weight is not None:
        return list(layer.in_proj_weight.detach().chunk(3))
    return [w.detach() for w in (layer.q_proj_weight, layer.k_proj_weight, layer.v_proj_weight)]


def _linear(weight: Tensor, bias: Tensor | None, trained: bool) -> nn.Linear:
    """Return a Linear layer with copies of a weight and a bias."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    layer.weight = nn.Parameter(weight.clone(), trained)
    if bias is not None:
        layer.bias = nn.Parameter(bias.clone(), trained)
    return layer


def separate_attention(model: M) -> tuple[M, dict[str, nn.MultiheadAttention]]:
    """Replace the attention layers of a model by ones with separate projections.

    Layers of a subclass of `torch.nn.MultiheadAttention`, and those that share a Parameter with another module or have
    parametrized ones, stay as they are.

    Args:
        model: the model, whose modules are replaced in place.

    Returns:
        The model, which is another object only if it is itself such a layer, and the layers that were replaced, by each
        of their names.
    """
    shared = owners(model)
    taken: dict[str, nn.MultiheadAttention] = {}
    made: dict[int, SeparateAttention] = {}
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if type(module) is not nn.MultiheadAttention:
            continue
        alone = all(len(shared.get(id(p), [name])) == 1 for p in module.parameters())
        if alone and not any(nn.utils.parametrize.is_parametrized(part) for part in module.modules()):
            if id(module) not in made:
                made[id(module)] = SeparateAttention(module)
            taken[name] = module
    for name, module in taken.items():
        model = replaced(model, name, made[id(module)])
    return model, taken


def put_back(model: M, taken: dict[str, nn.MultiheadAttention]) -> M:
    """Put attention layers of torch back where no projection was cut, with the present weights.

    Args:
        model: a model after `separate_attention`; its modules are replaced in place.
        taken: the layers that were replaced, by name.

    Returns:
        The model, with copies of the layers.
    """
    copies: dict[int, nn.Module] = {}
    for name, layer in taken.items():
        module = model.get_submodule(name)
        assert isinstance(module, SeparateAttention)
        if all(isinstance(part, nn.Linear) for part in module.children()):
            if id(module) not in copies:
                copies[id(module)] = _filled(copy.deepcopy(layer), module)
            model = replaced(model, name, copies[id(module)])
    return without_nested(model)


def without_nested(model: M) -> M:
    """Keep encoders of torch from passing nested tensors to layers that have no fused path any more.

    Args:
        model: the model, which is changed in place.

    Returns:
        The model.
    """
    for module in model.modules():
        separate = (isinstance(part, SeparateAttention) for part in module.modules())
        if isinstance(module, nn.TransformerEncoder) and any(separate):
            module.use_nested_tensor = False
        if isinstance(module, nn.TransformerEncoderLayer) and any(map(_is_pair, (module.linear1, module.linear2))):
            module.activation_relu_or_gelu = 0  # the fused path reads the weights of these layers
    return model


def _is_pair(layer: nn.Module) -> bool:
    """Return whether a layer is two layers of a cut one."""
    return isinstance(layer, nn.Sequential)


def joined(layer: SeparateAttention) -> nn.MultiheadAttention:
    """Return the layer of torch that computes what an attention layer with separate projections computes.

    Args:
        layer: the layer. Projections of low rank are multiplied out, because the layer of torch has none.

    Returns:
        A `torch.nn.MultiheadAttention`.
    """
    parts = [layer.q_proj, layer.k_proj, layer.v_proj, layer.out_proj]
    weight = torch.as_tensor(layer.q_proj.weight)
    made = nn.utils.skip_init(
        nn.MultiheadAttention,
        layer.embed_dim,
        layer.num_heads,
        dropout=layer.dropout,
        bias=any(part.bias is not None for part in parts),
        add_bias_kv=layer.bias_k is not None,
        add_zero_attn=layer.add_zero_attn,
        kdim=layer.kdim,
        vdim=layer.vdim,
        batch_first=layer.batch_first,
        device=weight.device,
        dtype=weight.dtype,
    )
    return _filled(made, layer).train(layer.training)


@torch.no_grad()
def _filled(made: nn.MultiheadAttention, layer: SeparateAttention) -> nn.MultiheadAttention:
    """Set the weights of an attention layer of torch to those of one with separate projections."""
    parts = [layer.q_proj, layer.k_proj, layer.v_proj, layer.out_proj]
    weights = [torch.as_tensor(part.weight) for part in parts]
    biases = [
        w.new_zeros(len(w)) if p.bias is None else torch.as_tensor(p.bias) for w, p in zip(weights, parts, strict=True)
    ]
    if made.in_proj_weight is not None:
        made.in_proj_weight.copy_(torch.cat(weights[:3]))
    else:
        for name, weight in zip(("q", "k", "v"), weights, strict=False):
            made.get_parameter(f"{name}_proj_weight").copy_(weight)
    made.out_proj.weight.copy_(weights[3])
    if made.in_proj_bias is not None:
        made.in_proj_bias.copy_(torch.cat(biases[:3]))
        made.out_proj.bias.copy_(biases[3])
    if layer.bias_k is not None and layer.bias_v is not None:
        made.get_parameter("bias_k").copy_(layer.bias_k)
        made.get_parameter("bias_v").copy_(layer.bias_v)
    return made
