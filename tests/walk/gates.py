"""Gates and softmax weights of heads without the library: by transformers' eager code, or a module's softmax."""

import contextlib
import inspect

import checks
import torch
from own_softmaxes import _weights as fused_weights
from torch.nn import functional as F
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
            self.note(site, fused_weights(*args, **kwargs))
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


class Reference:
    """Runs a model with gates on the output of every head, by transformers' eager code where a site calls it.

    Attributes:
        outside: the sites that do not call it, site -> heads.
    """

    def __init__(self, model, sites, run):
        self.model, self.heads = model, {name: site.heads for name, site in sites.items()}
        with checks.interface(model, None) as seen:
            run()
        self.interface = checks.interface if seen else lambda model, gates: contextlib.nullcontext({})
        self.outside = {name: heads for name, heads in self.heads.items() if name not in seen}
        self.unknown = sorted(seen.keys() - sites.keys())  # which the library did not find

    @contextlib.contextmanager
    def gated(self, gates=None):
        """Yields {site: softmax weights of each call} of a pass inside the block."""
        mode = Softmax(self.outside, gates)
        if gates is not None:
            gates = {name: gates.get(name, torch.ones(heads)) for name, heads in self.heads.items()}
        with contextlib.ExitStack() as stack:
            seen = stack.enter_context(self.interface(self.model, gates))
            if self.outside:
                mode.gates = gates
                stack.enter_context(mode.watching(self.model))
            yield seen
            seen.update(mode.seen)
