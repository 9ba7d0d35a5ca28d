"""Independent of the library: the weights that attention modules compute by themselves, and gates on their heads."""

import contextlib

import torch
import torch.nn.functional as F
from tiny_models import output_projection
from torch.overrides import TorchFunctionMode


class _Softmaxes(TorchFunctionMode):
    """Keeps the softmax weights that the running site computes, [rows, heads, queries, keys]."""

    def __init__(self):
        super().__init__()
        self.seen, self.site, self.heads = {}, None, 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if self.site and function is F.multi_head_attention_forward:
            names = {"need_weights": True, "average_attn_weights": False}
            self.keep(F.multi_head_attention_forward(*args, **{**kwargs, **names})[1])
        result = function(*args, **kwargs)
        if self.site and function in (F.softmax, torch.softmax, torch.Tensor.softmax):
            self.keep(result)
        if self.site and function is F.scaled_dot_product_attention:
            self.keep(_weights(*args, **kwargs))
        return result

    def keep(self, weights):
        if weights.dim() == 5:  # [rows, heads, blocks, queries, keys]
            weights = weights.flatten(
                *((2, 3) if weights.shape[1] == self.heads else (0, 1))
            )  # LongT5 has blocks first
        if weights.dim() == 3:
            weights = weights.unflatten(0, (-1, self.heads))
        elif weights.shape[1] != self.heads:
            weights = weights.transpose(1, 2)
        self.seen.setdefault(self.site, []).append(weights)


def _weights(query, key, value, attn_mask=None, dropout_p=0, is_causal=False, scale=None, **others):
    scores = query @ key.repeat_interleave(query.shape[1] // key.shape[1], 1).mT * (scale or query.shape[-1] ** -0.5)
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
    if attn_mask is not None:
        scores = scores.masked_fill(~attn_mask, -torch.inf) if attn_mask.dtype == torch.bool else scores + attn_mask
    return scores.softmax(-1)


@contextlib.contextmanager
def own_softmaxes(model, sites):
    """Yields {site: softmax weights of each call} of these modules, filled while the model runs."""
    mode, hooks = _Softmaxes(), []
    for site in sites:
        module = model.get_submodule(site)
        heads = next(getattr(module, name) for name in ("num_heads", "num_attention_heads", "n_heads", "n_head")
                     if hasattr(module, name))  # fmt: skip
        hooks.append(
            module.register_forward_pre_hook(lambda *_, s=site, h=heads: mode.__dict__.update(site=s, heads=h))
        )
        hooks.append(module.register_forward_hook(lambda *_: mode.__dict__.update(site=None)))
    try:
        with mode if sites else contextlib.nullcontext():
            yield mode.seen
    finally:
        for hook in hooks:
            hook.remove()


@contextlib.contextmanager
@torch.no_grad()
def scaled_columns(model, name, gates):
    """Scales the columns of the output matrices that read each head, {site: [heads]}."""
    before = []
    for site, gate in gates.items():
        owner = output_projection(model, name, site)
        weight = owner if isinstance(owner, torch.nn.Parameter) else owner.weight
        before.append((weight, weight.clone()))
        if weight.dim() == 3:  # XLNet's, [hidden, heads, width]
            weight.mul_(gate[:, None])
        else:
            by_column = gate.repeat_interleave(owner.weight.shape[1] // len(gate))
            weight.mul_(by_column if isinstance(owner, torch.nn.Linear) else by_column[:, None])
    try:
        yield
    finally:
        with torch.no_grad():
            for weight, values in before:
                weight.copy_(values)
