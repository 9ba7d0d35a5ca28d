"""Questions with options, against lm-eval's own backend: `python -m benchmarks.choices --model DIR --data DIR`.

The same documents and batch size for both, in turn in one process; of MMLU the documents of one subject. The tokens and
the time of ours include its comparison with the plain way, which the first round has.
"""

import argparse
import copy
import logging
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as tf
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from tabulate import tabulate

from benchmarks.rounds import conditions, in_turn, ratio
from hies.tasks import TASKS
from hies.tasks.base import TOKENS
from hies.tasks.prefix_model import PrefixLM
from hies.tasks.splits import Split

NAMES = ("hellaswag", "winogrande", "arc_easy", "arc_challenge", "openbookqa", "piqa", "mmlu")
HEADERS = [
    "",
    "documents",
    "lm-eval's tokens",
    "ours",
    "lm-eval (s)",
    "ours (s)",
    "times faster",
    "nats apart",
    "differ",
]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure each task, print a line of it."""
    options = _options(arguments)
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    network = tf.AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32).eval()
    tokenizer = tf.AutoTokenizer.from_pretrained(options.model)
    rows = []
    for name in options.tasks:
        rows.append([name, *_row(network, tokenizer, _documents(name, options), options)])
        print(*rows[-1], flush=True)
    print(f"{options.model}, float32, batches of {options.batch_size}, {conditions()}")
    print(tabulate(rows, headers=HEADERS, floatfmt=("", "d", "d", "d", ".1f", ".1f", ".2f", ".1e", "d")))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.choices", description=(__doc__ or "").split(":")[0])
    parser.add_argument("--model", required=True, help="folder of a causal language model, or its name on the Hub")
    parser.add_argument("--data", type=Path, help="folder of local copies of the data sets")
    parser.add_argument("--tasks", nargs="+", default=NAMES, choices=NAMES)
    parser.add_argument("--documents", type=int, default=100)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=1)
    return parser.parse_args(arguments)


def _documents(name: str, options: argparse.Namespace) -> Split:
    report = TASKS[name](max_examples=None if name == "mmlu" else options.documents).load(options.data, Path()).report
    subjects = [contexts[0].partition(".")[0] if name == "mmlu" else "" for contexts in report.inputs["contexts"]]
    return report.take([i for i, subject in enumerate(subjects) if subject == subjects[0]][: options.documents])


def _row(network: Any, tokenizer: Any, documents: Split, options: argparse.Namespace) -> list[float]:
    columns = zip(documents.inputs["contexts"], documents.inputs["continuations"], strict=True)
    pairs = [[(texts[i % len(texts)], option) for i, option in enumerate(ends)] for texts, ends in columns]
    requests = [Instance("loglikelihood", {}, pair, 0) for document in pairs for pair in document]
    found: dict[str, np.ndarray] = {}

    def answer(name: str, kind: Any) -> None:
        model = kind(network, "causal", tokenizer=copy.deepcopy(tokenizer), batch_size=options.batch_size)
        found[name] = np.array([likelihood for likelihood, _ in model.loglikelihood(requests, disable_tqdm=True)])

    TOKENS.clear()
    ways = {"plain": partial(answer, "plain", HFLM), "ours": partial(answer, "ours", PrefixLM)}
    seconds = in_turn(ways, options.rounds, warm_up=0)
    tokens = [TOKENS[name] // options.rounds for name in ("plain", "computed")]
    times = [float(np.median(seconds[name])) for name in ways]
    return [len(pairs), *tokens, *times, ratio(seconds["plain"], seconds["ours"]), *_apart(found, pairs)]


def _apart(found: Mapping[str, np.ndarray], pairs: Sequence[Sequence[Any]]) -> tuple[float, int]:
    """Returns the largest difference of two log-likelihoods, and how many documents have another likeliest option."""
    ends = np.cumsum([len(document) for document in pairs])[:-1]
    chosen = [[int(each.argmax()) for each in np.split(found[name], ends)] for name in ("plain", "ours")]
    return float(np.abs(found["plain"] - found["ours"]).max()), sum(
        one != other for one, other in zip(*chosen, strict=True)
    )


if __name__ == "__main__":
    main()
