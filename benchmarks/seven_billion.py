"""Memory for scoring a LLaMA-2-7B-shaped model: `python -m benchmarks.seven_billion`.

`hies.collect` itself runs, on tensors that have a shape, a type and a place but no data: the storages that its
operations make are added up as long as they live, and nothing is computed. Attention takes the fused kernel of the CPU,
which keeps for the backward pass what the fused kernels of CUDA keep.
"""

import argparse
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

import hies
from benchmarks.rounds import check_options
from hies.batching import Batch
from hies.scoring.losses import default_loss

CARD = 24e9  # bytes
LAYERS = 32
NOTE = """\
Live tensors: of the whole pass, operation by operation, at the fullest moment; the lines above them are never all there
at once. Entropy: its scores written down for a few queries at a time, the dearer of its two ways. Not counted: what a
kernel takes and gives back while it runs, and what CUDA's context and allocator hold besides."""


@dataclass(frozen=True)
class Memory:
    """Bytes beside what was known before: saved for the backward pass, and all that lives, each at its peak."""

    saved: int
    peak: int


def main(arguments: Sequence[str] | None = None) -> None:
    """Print what the memory is made of, activations kept and computed again side by side."""
    options = _options(arguments)
    with FakeTensorMode():
        batch, model = _batch(options.batch, options.tokens), _llama(LAYERS)
        ways = [scoring_memory(model, batch, again) for again in tqdm((False, True), unit="pass")]
        parts = {
            "weights": (sum(parameter.nbytes for parameter in model.parameters()),) * 2,
            "saved for the backward pass": tuple(way.saved for way in ways),
            "one layer computed again": (0, _layer_bytes(batch)),
            "logits and loss, besides": (_loss_bytes(model, batch),) * 2,
            "entropy of one layer": (_entropy_bytes(model, batch),) * 2,
        }
    print(
        f"LLaMA-2-7B's shape, {sum(p.numel() for p in model.parameters()) / 1e9:.2f} billion parameters in bfloat16, "
        f"{options.batch} x {options.tokens} tokens, HIS and AE; GB = 10^9 bytes"
    )
    print(_table(parts, ways))
    print(NOTE)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    about = (__doc__ or "").split(":")[0]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.seven_billion", description=about)
    parser.add_argument("--tokens", type=int, default=2048, help="of each text, 2 to 4096")
    parser.add_argument("--batch", type=int, default=1, help="texts in one pass, 1 to 64")
    options = parser.parse_args(arguments)
    check_options(parser, options, tokens=(2, 4096), batch=(1, 64))
    return options


def _llama(layers: int) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=32000,
        hidden_size=4096,
        intermediate_size=11008,
        num_hidden_layers=layers,
        num_attention_heads=32,
        max_position_embeddings=4096,
    )
    return LlamaForCausalLM._from_config(config, dtype=torch.bfloat16)


def _batch(size: int, tokens: int) -> Batch:
    words = torch.zeros(size, tokens, dtype=torch.int64)
    return {"input_ids": words, "labels": words}


def scoring_memory(model: PreTrainedModel, batch: Batch, checkpoint: bool) -> Memory:
    """What `hies.collect` takes for HIS and AE of one batch, real or inside a FakeTensorMode."""
    known = [*model.parameters(), *model.buffers(), *batch.values()]
    loss = default_loss(model)  # tensors without numbers cannot be compared with the model's own loss
    return memory_of(lambda: hies.collect(model, [batch], loss=loss, checkpoint=checkpoint), known)


def _layer_bytes(batch: Batch) -> int:
    """What a layer saves if nothing is computed again; all layers are alike but the first, which saves less."""
    two, three = (scoring_memory(_llama(layers), batch, checkpoint=False).saved for layers in (2, 3))
    return three - two


def _loss_bytes(model: LlamaForCausalLM, batch: Batch) -> int:
    """What the logits, their loss and its backward pass take beside what they save."""
    hidden = torch.zeros(*batch["labels"].shape, model.config.hidden_size, dtype=model.dtype, requires_grad=True)
    weight = model.lm_head.weight.detach()

    def run() -> None:
        outputs = SimpleNamespace(logits=hidden @ weight.T)
        torch.autograd.grad(default_loss(model)(outputs, batch).sum(), hidden)

    found = memory_of(run, [hidden, weight, *batch.values()])
    return found.peak - found.saved


def _entropy_bytes(model: LlamaForCausalLM, batch: Batch) -> int:
    size, tokens = batch["input_ids"].shape
    heads = model.config.num_attention_heads
    query = torch.zeros(size, heads, tokens, model.config.hidden_size // heads, dtype=model.dtype)
    bias = torch.zeros(1, 1, 1, 1)  # keeps the fused kernel away
    return memory_of(lambda: hies.attention_entropy(query, query, causal=True, bias=bias), [query, bias]).peak


def memory_of(run: Callable[[], object], known: Iterable[Tensor]) -> Memory:
    """What a call takes beside the known tensors, real or inside a FakeTensorMode."""
    known = list(known)
    saved = _Storages(known)
    with _Operations(known) as made, torch.autograd.graph.saved_tensors_hooks(saved.note, lambda tensor: tensor):
        run()
    return Memory(saved.peak, made.storages.peak)


class _Storages:
    """Adds up the storages that are noted, each from then until nothing holds it; the known ones are left out."""

    def __init__(self, known: Iterable[Tensor]) -> None:
        self._live = {tensor.untyped_storage()._cdata for tensor in known}
        self._now = self.peak = 0

    def note(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        place, size = storage._cdata, storage.nbytes()
        if place not in self._live:
            self._live.add(place)
            self._now += size
            self.peak = max(self.peak, self._now)
            weakref.finalize(storage, self._forget, place, size)
        return tensor

    def _forget(self, place: int, size: int) -> None:
        self._live.discard(place)
        self._now -= size


class _Operations(TorchDispatchMode):
    """Notes the results of all operations; where tensors have no data, whatever is checked about them is in order."""

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()
        self.storages = _Storages(known)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default and isinstance(args[0], FakeTensor):
            return False  # collect asks whether a gradient is not finite, and whether an example has no label
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                self.storages.note(tensor)
        return made


def _table(parts: dict[str, tuple[int, ...]], ways: Sequence[Memory]) -> str:
    from tabulate import tabulate  # benchmarks.gpu runs where it is not installed

    sums = [sum(column) for column in zip(*parts.values(), strict=True)]
    live = [weights + way.peak for weights, way in zip(parts["weights"], ways, strict=True)]
    rows = [[name, *(size / 1e9 for size in sizes)] for name, sizes in parts.items()]
    for name, sizes in {"sum": sums, "live tensors, at most": live}.items():
        rows += [[name, *(size / 1e9 for size in sizes)]]
        rows += [[f"  of {CARD / 1e9:.0f} GB (%)", *(100 * size / CARD for size in sizes)]]
    return tabulate(rows, headers=["", "kept", "computed again"], floatfmt=("", ".2f", ".2f"))


if __name__ == "__main__":
    main()
