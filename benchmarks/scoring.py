"""Scoring time against a plain forward pass: `python -m benchmarks.scoring`.

A MiniLM-shaped model with random weights, batches of 32 texts of 64 tokens, a quarter of the tokens padding. The ways
are measured in turn, round after round, and each ratio is taken within its round.
"""

import statistics
import time
from collections.abc import Callable

import torch
from tabulate import tabulate
from transformers import BertConfig, BertForSequenceClassification

import hies

ROUNDS = 9


def main() -> None:
    """Print the median time of every way and its median ratio to one forward pass."""
    torch.manual_seed(0)
    config = BertConfig(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536)
    model = BertForSequenceClassification(config).eval()
    batch = _batch()
    ways: dict[str, Callable[[], object]] = {
        "one forward pass": lambda: _forward(model, batch),
        "AE alone": lambda: hies.collect(model, [batch], need=("ae",)),
        "HIS alone": lambda: hies.collect(model, [batch], need=("his",)),
        "HIS and AE, exact per example": lambda: hies.collect(model, [batch]),
        "one training step": lambda: _training_step(model, batch),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS + 1):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - started)
    base = seconds["one forward pass"][1:]  # the first round warms up
    rows = [
        (name, statistics.median(times[1:]), statistics.median(t / b for t, b in zip(times[1:], base, strict=True)))
        for name, times in seconds.items()
    ]
    print(f"{torch.get_num_threads()} threads, median of {ROUNDS} rounds")
    print(tabulate(rows, headers=["", "seconds", "forward passes"], floatfmt=("", ".3f", ".2f")))


def _batch() -> dict[str, torch.Tensor]:
    lengths = torch.linspace(32, 64, 32).long()
    mask = (torch.arange(64)[None] < lengths[:, None]).long()
    return {
        "input_ids": torch.randint(1000, 30000, (32, 64)),
        "attention_mask": mask,
        "labels": torch.randint(2, (32,)),
    }


@torch.no_grad()
def _forward(model: BertForSequenceClassification, batch: dict[str, torch.Tensor]) -> None:
    model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])


def _training_step(model: BertForSequenceClassification, batch: dict[str, torch.Tensor]) -> None:
    model(**batch).loss.backward()
    model.zero_grad(set_to_none=True)


if __name__ == "__main__":
    main()
