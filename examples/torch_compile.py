"""Compiles a pruned classifier with torch.compile as one graph, and compares time and answers.

python examples/torch_compile.py --model small
"""

import argparse

import torch
from torch.utils.benchmark import Timer
from transformers import AutoTokenizer

import hies

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--model", required=True, help="folder of a pruned classifier with its tokenizer")
parser.add_argument("--backend", default="inductor", help="inductor needs a C++ compiler")
TEXTS = ["Fit an array.", "Draw the axes of a figure, and then a line for each row of the table."] * 8


@torch.no_grad()
def main(words: list[str] | None = None) -> float:
    """Runs the example; returns the largest difference between logits."""
    options = parser.parse_args(words)
    model, tokenizer = hies.load_pruned(options.model).eval(), AutoTokenizer.from_pretrained(options.model)
    inputs = dict(tokenizer(TEXTS, padding=True, return_tensors="pt"))
    compiled = torch.compile(model, backend=options.backend, fullgraph=True)
    difference = float((compiled(**inputs).logits - model(**inputs).logits).abs().max())
    eager, fast = (
        Timer("model(**inputs)", globals={"model": one, "inputs": inputs}).blocked_autorange().median
        for one in (model, compiled)
    )
    print(f"{1e3 * eager:.1f} ms before, {1e3 * fast:.1f} ms compiled; logits differ by {difference:.1e} at most")
    return difference


if __name__ == "__main__":
    main()
