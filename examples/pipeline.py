"""Answers through transformers' pipeline, from a pruned model.

python examples/pipeline.py --model small --text "Fit an array." "Draw the axes."
"""

import argparse

from transformers import AutoTokenizer, pipeline

import hies

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--model", required=True, help="folder of a pruned model with its tokenizer")
parser.add_argument("--task", default="text-classification", help="any task of pipelines, such as text-generation")
parser.add_argument("--text", nargs="+", default=["Fit an array.", "Draw the axes."])


def main(words: list[str] | None = None) -> list:
    """Runs the example; returns the answers."""
    options = parser.parse_args(words)
    model, tokenizer = hies.load_pruned(options.model).eval(), AutoTokenizer.from_pretrained(options.model)
    answers = pipeline(options.task, model=model, tokenizer=tokenizer)(options.text)
    for text, answer in zip(options.text, answers, strict=True):
        print(f"{text!r}: {answer}")
    return answers


if __name__ == "__main__":
    main()
