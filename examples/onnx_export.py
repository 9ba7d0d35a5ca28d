"""Exports a pruned classifier to ONNX and compares the answers of onnxruntime with those of torch.

python examples/onnx_export.py --model small --out small.onnx        (needs: pip install -e '.[export]')
"""

import argparse

import onnxruntime
import torch
from transformers import AutoTokenizer

import hies

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--model", required=True, help="folder of a pruned classifier with its tokenizer")
parser.add_argument("--out", required=True, help="the ONNX file")
TEXTS = ["Fit an array.", "Draw the axes of a figure, and then a line for each row of the table."]
OTHERS = ["Whether gradients are tracked.", "Load a tokenizer.", "Return the shape of an array as a tuple."]


def main(words: list[str] | None = None) -> float:
    """Runs the example; returns the largest difference between logits."""
    options = parser.parse_args(words)
    model, tokenizer = hies.load_pruned(options.model).eval(), AutoTokenizer.from_pretrained(options.model)
    inputs = dict(tokenizer(TEXTS, padding=True, return_tensors="pt"))
    sizes = dict.fromkeys((0, 1), torch.export.Dim.DYNAMIC)  # of texts and of tokens
    torch.onnx.export(
        model, (), options.out, kwargs=inputs, dynamic_shapes={name: sizes for name in inputs}, dynamo=True,
        input_names=list(inputs), output_names=["logits"],
    )  # fmt: skip
    session, worst = onnxruntime.InferenceSession(options.out), 0.0
    for texts in (TEXTS, OTHERS):  # the second has another number of texts and of tokens than was exported
        inputs = tokenizer(texts, padding=True, return_tensors="pt")
        (found,) = session.run(["logits"], {name: inputs[name].numpy() for name in inputs})
        with torch.no_grad():
            worst = max(worst, float((model(**inputs).logits - torch.from_numpy(found)).abs().max()))
    print(f"largest difference between logits: {worst:.1e}")
    return worst


if __name__ == "__main__":
    main()
