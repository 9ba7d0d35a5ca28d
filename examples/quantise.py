"""Quantises the matrices of a pruned classifier to 8 bits with torch's dynamic quantisation, for the CPU.

python examples/quantise.py --model small --report report.csv
"""

import argparse
import csv
import io
from pathlib import Path

import torch
from transformers import AutoTokenizer

import hies

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--model", required=True, help="folder of a pruned classifier with its tokenizer")
parser.add_argument("--report", required=True, help="CSV file, columns text and label (numbers)")


def main(words: list[str] | None = None) -> list[float]:
    """Runs the example; returns accuracy before and after."""
    options = parser.parse_args(words)
    model, tokenizer = hies.load_pruned(options.model), AutoTokenizer.from_pretrained(options.model)
    with Path(options.report).open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    labels = [int(row["label"]) for row in rows]
    report = hies.batches(tokenizer, rows, "text", labels, model=model, batch_size=64)
    small = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)
    accuracies = []
    for name, one in (("float32", model), ("8 bits", small)):
        torch.save(one.state_dict(), weights := io.BytesIO())
        accuracies.append(hies.evaluate(one, report).accuracy)
        print(f"{name:<8}  accuracy {accuracies[-1]:.3f}  {weights.tell() / 1e3:.0f} kB")
    return accuracies


if __name__ == "__main__":
    main()
