"""Masked heads: their output is zero inside a block, and no weight is touched."""

import contextlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from hies.errors import HiesError
from hies.heads.attention import handling
from hies.heads.calls import Call
from hies.heads.sites import normalize_removed
from hies.heads.weights import check_weights_are_here


@contextlib.contextmanager
def masked(model: nn.Module, removed: Mapping[str, Sequence[int]]) -> Iterator[None]:
    """Sets the output of the removed heads to zero inside the block; no weight is touched.

    The mask belongs to the thread or asyncio task that opens the block, and to tasks started inside it. Any other that
    runs the model meanwhile, or opens a block of its own for it, is refused: give each a copy of the model. A backward
    pass through layers that it computes again (gradient checkpointing) must run inside the block, too.

    Args:
        model: any model whose heads `hies.find_sites` finds.
        removed: site -> indices of its heads that are removed.

    Raises:
        HiesError: a site or a head that the model does not have (raised by the forward pass, or on leaving the block,
            where only that can show it), another thread or task, or what would forget the mask: a backward pass after
            the block, a copy that was made inside it, and an attention implementation that was set inside it.
    """
    by_site = normalize_removed(removed)
    check_weights_are_here(model, "hies.masked", hooked_will_do=True)
    modules = dict(model.named_modules())
    if unknown := sorted(by_site.keys() - modules.keys(), key=str):
        raise HiesError(f"{type(model).__name__} has no site {unknown[0]!r}; hies.find_sites names its sites.")
    called, visited = set[str](), set[str]()
    late = _LateBackward()

    def note(name: str, module: nn.Module, inputs: Any) -> None:
        if module is modules[name]:  # a copy that is made inside the block has this hook, too
            called.add(name)

    def silence(name: str, call: Call, output: Tensor) -> Tensor:
        visited.add(name)
        late.note_call()
        if name not in by_site:
            return output
        heads, count = by_site[name], output.shape[2]  # of [rows, queries, heads, width]
        if not set(heads) <= set(range(count)):
            raise HiesError(f"site {name!r} has the heads 0 to {count - 1}; {heads} cannot be removed from it.")
        is_removed = torch.zeros(count, dtype=torch.bool, device=output.device)
        is_removed[heads] = True
        return output.masked_fill(is_removed[:, None], 0)  # [heads, 1]

    with handling(model, silence), late.refused(model), contextlib.ExitStack() as hooks:
        for name in by_site:  # parts of a model may stay unused, such as a vision tower without a picture
            hooks.enter_context(modules[name].register_forward_pre_hook(partial(note, name)))
        yield
    if others := sorted(called - visited):
        raise HiesError(f"{others[0]!r} computes no attention, so none of its heads was masked.")


class _LateBackward:
    """Refuses backward passes after the block through layers that are then computed again, without the mask."""

    def __init__(self) -> None:
        self._again = False  # an attention call of this forward pass was inside torch.utils.checkpoint
        self._open = True

    def note_call(self) -> None:
        """Notes an attention call: one inside torch.utils.checkpoint is computed again by a backward pass."""
        compiled = torch.compiler.is_compiling()  # what is computed again then, the graph holds with its mask
        frame = None if self._again or compiled else sys._getframe()
        while frame is not None and not self._again:
            self._again = frame.f_globals.get("__name__") == "torch.utils.checkpoint"
            frame = frame.f_back

    @contextlib.contextmanager
    def refused(self, model: nn.Module) -> Iterator[None]:
        """Watches the forward passes of the model inside the block, and their backward passes from then on."""
        hooks = [model.register_forward_pre_hook(self._begin), model.register_forward_hook(self._end)]
        try:
            yield
        finally:
            self._open = False
            for hook in hooks:
                hook.remove()

    def _begin(self, module: nn.Module, inputs: Any) -> None:
        self._again = False

    def _end(self, module: nn.Module, inputs: Any, outputs: Any) -> None:
        again = self._again or any(getattr(m, "gradient_checkpointing", False) and m.training for m in module.modules())
        if again and torch.is_grad_enabled():
            for tensor in tree_leaves(outputs):
                if isinstance(tensor, Tensor) and tensor.requires_grad:
                    tensor.register_hook(self._check)

    def _check(self, gradient: Tensor) -> None:
        if not self._open:
            raise HiesError(
                "This backward pass computes layers again (gradient checkpointing) after the hies.masked block ended, "
                "which would forget the mask; run it inside the block."
            )
