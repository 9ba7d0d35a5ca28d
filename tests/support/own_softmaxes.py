"""Independent of the library: the weights that attention modules compute by themselves, and gates on their heads."""

import contextlib
import inspect

import torch
import torch.nn.functional as F
from tiny_models import output_projection
from torch.overrides import TorchFunctionMode

SOFTMAX = (torch.softmax, torch.Tensor.softmax, F.softmax)
PACKED = inspect.signature(F.multi_head_attention_forward)


class Softmax(TorchFunctionMode):
    """Scales what the heads of the site that is running make of their values, and keeps their softmax weights.

    Args:
        heads: site -> how many it has.
        gates: site -> [heads], or None.
    """

    def __init__(self, heads, gates):
        super().__init__()
        self.heads, self.gates, self.seen, self.running, self.columns = heads, gates, {}, [], set()

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs, site = kwargs or {}, self.running[-1] if self.running else None
        if site is not None and function is F.multi_head_attention_forward:
            return self.packed(site, PACKED.bind(*args, **kwargs).arguments)
        result = function(*args, **kwargs)
        if site is None:
            return result
        if function in SOFTMAX and (axis := axis_of_heads(result, self.heads[site])) is not None:
            by_head = result.unflatten(0, (-1, self.heads[site])) if axis == 0 else result
            seen = by_head.transpose(1, axis or 1)
            self.note(site, seen.flatten(2, -2))  # blocks of queries are queries
            return (by_head * self.gate(site, by_head.dim() - (axis or 1))).view(result.shape)
        if function is F.scaled_dot_product_attention:
            self.note(site, _weights(*args, **kwargs))
            return result * self.gate(site, 3)
        return result

    def packed(self, site, given):
        """Torch's own attention, with gates on the columns of its output matrix: it leaves no other place."""
        whole = given | {"need_weights": True, "average_attn_weights": False}
        self.note(site, F.multi_head_attention_forward(**whole)[1])
        self.columns.add(site)
        if self.gates is not None:
            weight = given["out_proj_weight"]
            gate = self.gates[site].repeat_interleave(weight.shape[1] // self.heads[site])
            given = given | {"out_proj_weight": weight * gate.to(weight)}
        return F.multi_head_attention_forward(**given)

    def gate(self, site, axes):
        """The gates of a site, with as many axes as there are from the heads on."""
        return 1 if self.gates is None else self.gates[site].view(-1, *[1] * (axes - 1))

    def note(self, site, weights):
        self.seen.setdefault(site, []).append(weights.detach())

    @contextlib.contextmanager
    def watching(self, model):
        """Knows inside the block which site is running."""
        hooks = []
        for site in self.heads:
            module = model.get_submodule(site)
            hooks.append(module.register_forward_pre_hook(lambda *_, site=site: self.running.append(site)))
            hooks.append(module.register_forward_hook(lambda *_: self.running.pop() and None, always_call=True))
        try:
            with self:
                yield
        finally:
            for hook in hooks:
                hook.remove()


def axis_of_heads(weights, heads):
    """The axis of softmax weights that has the heads, 0 where it has the rows, too; None where none has."""
    if weights.dim() == 3:
        return 0 if weights.shape[0] % heads == 0 else None
    return next((axis for axis in (1, 2) if weights.dim() > 3 and weights.shape[axis] == heads), None)


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
    counts = ("num_heads", "num_attention_heads", "n_heads", "n_head")
    modules = {site: model.get_submodule(site) for site in sites}
    heads = {site: next(getattr(one, name) for name in counts if hasattr(one, name)) for site, one in modules.items()}
    mode = Softmax(heads, None)
    with mode.watching(model) if sites else contextlib.nullcontext():
        yield mode.seen


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
