"""Scoring time against a forward pass, a training step and the classical way: `python -m benchmarks.scoring`.

A MiniLM-shaped model with random weights; a quarter of the tokens are padding. The ways are timed in turn, round after
round, and each ratio is taken within its round. `python -m analysis scoring --results DIR --out DIR` draws up what
--out=DIR keeps.
"""

import argparse
import json
import os
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tabulate import tabulate
from transformers import BertConfig, BertForSequenceClassification

import hies
from benchmarks import classical
from benchmarks.rounds import Ways, check_options, conditions, in_turn, ratio
from hies.batching import Batch
from hies.precision import machine
from hies.runs.files import revision, versions
from hies.runs.folders import SCORING as FOLDER
from hies.storage import replacing

SCHEMA = 1
FORWARD, STEP, SCORING = "one forward pass", "one training step", "HIS and AE, exact per example"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the median time of every way, and its median ratios."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scoring", description=(__doc__ or "").split(":")[0])
    parser.add_argument("--texts", type=int, default=32, help="in one batch")
    parser.add_argument("--tokens", type=int, default=64, help="of the longest text, at most 512")
    parser.add_argument("--rounds", type=int, default=7, help="of all ways in turn; one that warms up comes before")
    parser.add_argument("--out", type=Path, metavar="DIR", help=f"keeps the rows in DIR/{FOLDER}/minilm.jsonl")
    options = parser.parse_args(arguments)
    check_options(parser, options, texts=(1, 4096), tokens=(2, 512), rounds=(1, 10000))
    torch.manual_seed(0)
    model = minilm()
    batch = texts(options.texts, options.tokens)
    seconds = in_turn(_ways(model, batch), options.rounds)
    rows = [
        [name, statistics.median(times), *(ratio(times, seconds[base]) for base in (FORWARD, STEP, SCORING))]
        for name, times in seconds.items()
    ]
    print(f"{options.texts} texts of {options.tokens} tokens, {conditions()}, median of {options.rounds} rounds")
    print(tabulate(rows, headers=["", "seconds", "forward passes", "training steps", "scorings"], floatfmt=".2f"))
    print(_agreement(model, batch))
    if options.out is not None:
        path = options.out / FOLDER / "minilm.jsonl"
        with replacing(path) as temporary:
            temporary.write_text("".join(json.dumps(row) + "\n" for row in _rows(options, seconds)), encoding="utf-8")
        print(f"Written: {path}")


def _rows(options: argparse.Namespace, seconds: Mapping[str, Sequence[float]]) -> list[dict[str, Any]]:
    """A row for each way; forward passes and training steps: median and quartiles of the ratio within a round."""
    setting = {"schema": SCHEMA, "model": "minilm", "device": "cpu", "threads": torch.get_num_threads()}
    setting |= {"texts": options.texts, "tokens": options.tokens, "rounds": options.rounds}
    setting |= {"load": round(os.getloadavg()[0], 1), "cores": os.cpu_count() or 1}
    made = {"versions": versions() | machine(torch.device("cpu")), "revision": revision()}
    rows = []
    for way, times in seconds.items():
        low, passes, high = np.quantile(np.divide(times, seconds[FORWARD]), [0.25, 0.5, 0.75]).tolist()
        found = {"way": way, "seconds": statistics.median(times), "training_steps": ratio(times, seconds[STEP])}
        rows.append(setting | found | {"passes": passes, "passes_low": low, "passes_high": high} | made)
    return rows


def minilm(positions: int = 512) -> BertForSequenceClassification:
    """The shape of MiniLM-L6, with random weights."""
    config = BertConfig(
        hidden_size=384,
        num_hidden_layers=6,
        num_attention_heads=12,
        intermediate_size=1536,
        max_position_embeddings=positions,
    )
    return BertForSequenceClassification(config).eval()


def texts(count: int, tokens: int) -> Batch:
    """Random words; the texts are between half the tokens and all of them long."""
    lengths = torch.linspace(tokens // 2, tokens, count).long()
    return {
        "input_ids": torch.randint(1000, 30000, (count, tokens)),
        "attention_mask": (torch.arange(tokens)[None] < lengths[:, None]).long(),
        "labels": torch.randint(2, (count,)),
    }


def _ways(model: BertForSequenceClassification, batch: Batch) -> Ways:
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0)  # the weights stay as they are
    return {
        FORWARD: lambda: forward(model, batch),
        STEP: lambda: training_step(model, batch),
        "one training step with AdamW": lambda: training_step(model, batch, optimizer),
        "AE alone": lambda: hies.collect(model, [batch], need=("ae",)),
        "HIS alone": lambda: hies.collect(model, [batch], need=("his",)),
        SCORING: lambda: hies.collect(model, [batch]),
        "the classical way": lambda: classical.collect(model, [batch]),
        "the classical way, batch 1": lambda: classical.collect(model, singles(batch)),
    }


@torch.no_grad()
def forward(model: BertForSequenceClassification, batch: Batch) -> None:
    """A plain pass, without a loss."""
    model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])


def training_step(
    model: BertForSequenceClassification, batch: Batch, optimizer: torch.optim.Optimizer | None = None
) -> None:
    """The gradients of all weights and, if there is an optimizer, its step."""
    model(**batch).loss.backward()
    if optimizer is not None:
        optimizer.step()
    model.zero_grad(set_to_none=True)


def singles(batch: Batch) -> list[Batch]:
    """The same examples one by one."""
    return [{name: tensor[i : i + 1] for name, tensor in batch.items()} for i in range(len(batch["labels"]))]


def _agreement(model: BertForSequenceClassification, batch: Batch) -> str:
    """How far the classical way is from the same numbers."""
    found = hies.collect(model, [batch])
    ours = [torch.stack(list(values.values())) for values in (found.his, found.ae)]
    lines = []
    for name, batches in {"batch 1": singles(batch), f"batch {len(batch['labels'])}": [batch]}.items():
        his, ae = (
            (one - other).abs().max() for one, other in zip(classical.collect(model, batches), ours, strict=True)
        )
        lines.append(
            f"The classical way at {name}: HIS off by {his / ours[0].max():.1e} of its largest, AE by {ae:.1e}."
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
