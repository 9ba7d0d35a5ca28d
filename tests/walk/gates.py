"""Gates and softmax weights of heads without the library: by transformers' eager code, or a module's softmax."""

import contextlib

import checks
import torch
from own_softmaxes import Softmax


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
