"""What really pruned models cost: `python -m benchmarks.efficiency --shape minilm --out results`.

A model of the shape with random weights loses heads at random, and runs in turn with the dense one, round after round.
Printed is a table; `python -m analysis efficiency --results DIR --out DIR` draws what --out=DIR keeps.
"""

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from tabulate import tabulate
from tqdm import tqdm
from transformers import PreTrainedModel

import hies
from benchmarks.rounds import check_options
from experiments.sweep.devices import checked_device
from hies.batching import Batch
from hies.efficiency.cost import measure_cost
from hies.efficiency.measure import Efficiency, keep_freed_memory, measure
from hies.errors import HiesError
from hies.heads.attention import Site, find_sites
from hies.precision import machine
from hies.runs.files import revision, versions
from hies.storage import replacing

RATIOS = tuple(i / 10 for i in range(10))  # at 0 the dense model runs against its own copy, which shows the noise
SCHEMA = 1
ENDS = {"": "median", "_low": "low", "_high": "high"}
Row = dict[str, Any]


def _bert(layers: int, width: int, inner: int) -> PreTrainedModel:
    config = transformers.BertConfig(
        num_hidden_layers=layers, hidden_size=width, num_attention_heads=12, intermediate_size=inner
    )
    return transformers.BertForSequenceClassification(config)


def _llama() -> PreTrainedModel:
    config = transformers.LlamaConfig(
        num_hidden_layers=12, hidden_size=768, num_attention_heads=12, intermediate_size=2048
    )
    return transformers.LlamaForCausalLM(config)


def _vit() -> PreTrainedModel:
    config = transformers.ViTConfig(hidden_size=384, num_attention_heads=6, intermediate_size=1536)
    return transformers.ViTForImageClassification(config)


SHAPES: dict[str, Callable[[], PreTrainedModel]] = {
    "minilm": lambda: _bert(6, 384, 1536),
    "tinybert": lambda: _bert(4, 312, 1200),  # the paper's appendix E.1
    "bert_base": lambda: _bert(12, 768, 3072),
    "llama": _llama,  # LLaMA's proportions at BERT-base's width
    "vit": _vit,  # ViT-Small, 197 tokens
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the table, and keep the rows where --out says."""
    options = _options(arguments)
    keep_freed_memory()
    torch.manual_seed(options.seed)
    model = SHAPES[options.shape]().eval().to(options.device)
    batch = {name: tensor.to(options.device) for name, tensor in _batch(model, options.batch, options.tokens).items()}
    sites = find_sites(model, batch)
    setting = _setting(options, model, next(iter(sites.values())).queries)
    rows = [setting | costs for costs in _measured(model, batch, sites, options)]
    print(_whole(model, batch, sites, setting))
    print(_table(rows))
    if options.out is not None:
        path = options.out / "efficiency" / f"{options.shape}.jsonl"
        with replacing(path) as temporary:
            temporary.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        print(f"Written: {path}")


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.efficiency", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--shape", choices=SHAPES, default="minilm")
    parser.add_argument("--tokens", type=int, default=128, help="of each text, 1 to 512 (images: 197 whatever it says)")
    parser.add_argument("--batch", type=int, default=8, help="texts or images in one pass")
    parser.add_argument("--rounds", type=int, default=15, help="passes of each model that are timed")
    parser.add_argument("--seed", type=int, default=0, help="of the weights, and of which heads go")
    parser.add_argument("--device", default="cpu", help="cpu (one thread), or a GPU: cuda, cuda:1")
    parser.add_argument("--out", type=Path, metavar="DIR", help="keeps the rows in DIR/efficiency/SHAPE.jsonl")
    options = parser.parse_args(arguments)
    try:
        options.device = str(checked_device(options.device))
    except HiesError:
        parser.error(f"--device={options.device} does not work; give auto, cpu, or a device that torch can see.")
    check_options(parser, options, tokens=(1, 512), batch=(1, 4096), rounds=(1, 10000))
    return options


def _batch(model: PreTrainedModel, size: int, tokens: int) -> Batch:
    if model.main_input_name == "pixel_values":
        side = model.config.image_size
        return {"pixel_values": torch.randn(size, 3, side, side)}
    words = torch.randint(3, model.config.vocab_size, (size, tokens))
    return {"input_ids": words, "attention_mask": torch.ones_like(words)}


def _setting(options: argparse.Namespace, model: PreTrainedModel, tokens: int) -> Row:
    """What the rows of a shape have in common; tokens: as many as the heads saw, which images have too."""
    cuda = options.device.startswith("cuda")
    return {
        "schema": SCHEMA,
        "model": options.shape,
        "architecture": model.config.model_type,
        "device": torch.cuda.get_device_name(options.device) if cuda else options.device,
        "threads": 1,
        "batch": options.batch,
        "tokens": tokens,
        "rounds": options.rounds,
        "seed": options.seed,
        "versions": versions() | machine(torch.device(options.device)),
        "revision": revision(),
    }


def _measured(
    model: PreTrainedModel, batch: Batch, sites: dict[str, Site], options: argparse.Namespace
) -> Iterator[Row]:
    generator = torch.Generator().manual_seed(options.seed)
    scores = {name: torch.rand(site.heads, generator=generator) for name, site in sites.items()}
    total = sum(site.heads for site in sites.values())
    for ratio in tqdm(RATIOS, desc=options.shape, unit="ratio"):
        removed = hies.select(scores, ratio)
        small = hies.prune(model, removed)
        count = sum(map(len, removed.values()))
        costs = _costs(measure(model, small, batch, options.rounds))
        yield {"ratio": ratio, "heads_total": total, "heads_removed": count, **costs, **_counted(small, batch)}


def _costs(found: Efficiency) -> Row:
    """The pruned model's numbers; latency is relative to the dense model within a round."""
    return {
        "parameters": found.small.parameters,
        "flops": found.small.flops,
        "seconds": found.small.seconds.median,
        **{f"latency{end}": getattr(found.latency, name) for end, name in ENDS.items()},
        "weight_bytes": found.small.weight_bytes,
        "peak_bytes": found.small.peak_bytes,
        "cache_bytes": found.small.cache_bytes,
    }


def _counted(small: PreTrainedModel, batch: Batch) -> Row:
    """FLOPs as torch counts them in the pruned model, beside `flops`, which is a formula."""
    cost = measure_cost(small, batch)
    return {"flops_counted": None if cost is None else cost.dense.flops}


def _whole(model: PreTrainedModel, batch: Batch, sites: dict[str, Site], setting: Row) -> str:
    """What the dense model has, and how much of it its heads have: the most that pruning could save."""
    cost = measure_cost(model, batch)
    assert cost is not None  # the shapes are known here
    rest = cost.without({name: range(site.heads) for name, site in sites.items()})
    heads = {name: 100 * (1 - getattr(rest, name) / getattr(cost.dense, name)) for name in ("parameters", "flops")}
    return (
        "{model}: {batch} x {tokens} tokens, {device}, {threads} thread, median of {rounds} rounds. ".format(**setting)
        + f"Dense: {cost.dense.parameters / 1e6:.1f} M parameters, {heads['parameters']:.1f} % of them in heads; "
        + f"{cost.dense.flops / 1e9:.1f} GFLOPs, {heads['flops']:.1f} % of them in heads."
    )


def _table(rows: list[Row]) -> str:
    dense = rows[0]
    lines = [
        [
            f"{100 * row['ratio']:.0f} %",
            row["parameters"] / 1e6,
            row["flops"] / 1e9,
            100 * row["flops"] / dense["flops"],
            1e3 * row["seconds"],
            f"{100 * row['latency']:.1f} [{100 * row['latency_low']:.1f}, {100 * row['latency_high']:.1f}]",
            row["peak_bytes"] / 1e6,
            None if row["cache_bytes"] is None else row["cache_bytes"] / 1e6,
        ]
        for row in rows
    ]
    headers = ["removed", "M parameters", "GFLOPs", "FLOPs (%)", "ms", "latency (%)", "peak MB", "cache MB"]
    return tabulate(lines, headers=headers, floatfmt=".1f", missingval="-")


if __name__ == "__main__":
    main()
