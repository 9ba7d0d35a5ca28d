"""Exports a pruned classifier with torch.export, saves the program, and asks it without this library's code.

python examples/torch_export.py --model small --out small.pt2
"""

import argparse

import torch
from transformers import AutoTokenizer

import hies

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--model", required=True, help="folder of a pruned classifier with its tokenizer")
parser.add_argument("--out", required=True, help="the program, a .pt2 file")
TEXTS = ["Fit an array.", "Draw the axes of a figure, and then a line for each row of the table."]
OTHERS = ["Whether gradients are tracked.", "Load a tokenizer.", "Return the shape of an array as a tuple."]


def main(words: list[str] | None = None) -> float:
    """Runs the example; returns the largest difference between logits."""
    options = parser.parse_args(words)
    model, tokenizer = hies.load_pruned(options.model).eval(), AutoTokenizer.from_pretrained(options.model)
    inputs = dict(tokenizer(TEXTS, padding=True, return_tensors="pt"))
    sizes = dict.fromkeys((0, 1), torch.export.Dim.DYNAMIC)  # of texts and of tokens
    program = torch.export.export(model, (), inputs, dynamic_shapes={name: sizes for name in inputs})
    torch.export.save(program, options.out)
    program, worst = torch.export.load(options.out).module(), 0.0
    for texts in (TEXTS, OTHERS):  # the second has another number of texts and of tokens than was exported
        inputs = dict(tokenizer(texts, padding=True, return_tensors="pt"))
        with torch.no_grad():
            worst = max(worst, float((model(**inputs).logits - program(**inputs).logits).abs().max()))
    print(f"largest difference between logits: {worst:.1e}")
    return worst


if __name__ == "__main__":
    main()
