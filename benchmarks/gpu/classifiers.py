"""Shapes of BERT-base and ViT-Large: texts and images per second, dense and pruned, eager and under torch.compile."""

import statistics
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel

import hies
from benchmarks.gpu.machine import Machine, Row
from hies.batching import Batch
from hies.efficiency.cost import measure_cost

RATIOS = (0.25, 0.5)
ROUNDS = 7
FULL: dict[str, tuple[dict[str, Any], int]] = {  # sizes of the model, examples in a batch
    "bert": ({}, 64),  # transformers' defaults are BERT-base's
    "vit": ({"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}, 64),
}
SMALL = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 32}
TINY: dict[str, tuple[dict[str, Any], int]] = {"bert": (SMALL, 2), "vit": (SMALL | {"image_size": 32}, 2)}
TOKENS = 128  # of a text


def measure(machine: Machine) -> Iterator[Row]:
    """Yields examples per second in eager mode of both models, then compiled, which may take a minute a model."""
    shapes = TINY if machine.tiny else FULL
    made = {name: _models(machine, name, *shape) for name, shape in shapes.items()}
    for name, (models, batch, flops) in made.items():
        for row in _speeds(machine, models, batch):
            yield {"model": name, "runs": "eager", **row, "FLOPs promise": flops[row["removed"]]}
    for name, (models, batch, flops) in made.items():
        # What tests run is traced and not compiled.
        compiled = {
            ratio: torch.compile(models[ratio], backend="eager" if machine.tiny else "inductor")
            for ratio in ("0%", "50%")
        }
        for ratio, one in compiled.items():
            with torch.no_grad():
                first = machine.once(lambda: one(**batch))  # noqa: B023
            yield {"model": name, "runs": "compiling", "removed": ratio, "first_seconds": first}
        for row in _speeds(machine, compiled, batch):
            yield {"model": name, "runs": "compiled", **row, "FLOPs promise": flops[row["removed"]]}
        torch.compiler.reset()


def _models(machine: Machine, name: str, chosen: dict, size: int) -> tuple[dict, Batch, dict[str, float]]:
    """Returns a dense model and pruned ones by the share removed, a batch, and the speedup that FLOPs promise."""
    dtype = torch.bfloat16 if machine.cuda else torch.float32
    torch.manual_seed(0)
    with torch.device(machine.device):
        if name == "vit":
            model = transformers.ViTForImageClassification(transformers.ViTConfig(**chosen))
            batch = {"pixel_values": torch.randn(size, 3, *[model.config.image_size] * 2, dtype=dtype)}
        else:
            model = transformers.BertForSequenceClassification(transformers.BertConfig(**chosen))
            batch = {"input_ids": torch.randint(3, 1000, (size, 16 if machine.tiny else TOKENS))}
    model = model.to(dtype).eval()
    generator = torch.Generator().manual_seed(0)
    scores = {site.name: torch.rand(site.heads, generator=generator) for site in hies.find_sites(model, batch).values()}
    cost = measure_cost(model, batch)
    assert cost is not None  # the shapes are known here
    models: dict[str, PreTrainedModel] = {"0%": model}
    promised = {"0%": 1.0}
    for ratio in RATIOS:
        removed = hies.select(scores, ratio)
        models[f"{ratio:.0%}"] = hies.prune(model, removed)
        promised[f"{ratio:.0%}"] = cost.dense.flops / cost.without(removed).flops
    return models, batch, promised


@torch.no_grad()
def _speeds(machine: Machine, models: dict[str, Callable[..., object]], batch: Batch) -> Iterator[Row]:
    """Yields examples per second of each model, and the speedup over the first; they run in turn."""
    size = len(next(iter(batch.values())))
    seconds = machine.in_turn({ratio: lambda model=model: model(**batch) for ratio, model in models.items()}, ROUNDS)
    dense = seconds["0%"]
    for ratio, times in seconds.items():
        speedup = statistics.median(one / other for one, other in zip(dense, times, strict=True))
        speed = size / statistics.median(times)
        yield {"removed": ratio, "examples/s": speed, "speedup": speedup}


def limits(rows: Sequence[Row]) -> Iterator[Row]:
    """Yields nothing: what eager mode and a compiler make of a small model is not promised."""
    yield from ()
