"""Finding, masking and scoring heads against an unobserved forward pass: `python -m benchmarks.observed SHAPE`.

Random weights; a quarter of the tokens are padding. The ways are timed in turn, and each ratio is taken within its
round. To compare two versions of the library, run the same file with each of them on PYTHONPATH, in turns.
"""

import argparse
import statistics
from collections.abc import Callable, Sequence

import torch
import transformers as tf
from tabulate import tabulate

import hies
from benchmarks.rounds import conditions, in_turn, ratio
from benchmarks.scoring import texts
from hies.batching import Batch

BASE = {"vocab_size": 30000, "hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072}
DEBERTA = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "share_att_key": True, "position_buckets": 256,
           "norm_rel_ebd": "layer_norm", "position_biased_input": False, "type_vocab_size": 0}  # fmt: skip
DECODER = {**BASE, "num_key_value_heads": 4, "pad_token_id": 0}
SHAPES: dict[str, Callable[[int], tf.PreTrainedModel]] = {
    "bert": lambda layers: tf.BertForSequenceClassification(tf.BertConfig(**BASE, num_hidden_layers=layers)),
    "deberta": lambda layers: tf.DebertaV2ForSequenceClassification(
        tf.DebertaV2Config(**BASE, **DEBERTA, num_hidden_layers=layers)
    ),
    "llama": lambda layers: tf.LlamaForSequenceClassification(tf.LlamaConfig(**DECODER, num_hidden_layers=layers)),
    "experts": lambda layers: tf.Qwen3MoeForSequenceClassification(
        tf.Qwen3MoeConfig(**DECODER, num_hidden_layers=layers, num_experts=64, moe_intermediate_size=64, head_dim=64)
    ),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the median and the least time of every way, and its median ratio to a forward pass."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.observed", description=(__doc__ or "").split(":")[0])
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--texts", type=int, default=8, help="in one batch")
    parser.add_argument("--tokens", type=int, default=128, help="of the longest text")
    parser.add_argument("--rounds", type=int, default=7, help="of all ways in turn; one that warms up comes before")
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    model = SHAPES[options.shape](options.layers).eval()
    seconds = in_turn(_ways(model, texts(options.texts, options.tokens)), options.rounds)
    rows = [
        [name, statistics.median(times), min(times), ratio(times, seconds["forward pass"])]
        for name, times in seconds.items()
    ]
    print(f"{options.shape}, {options.layers} layers, {options.texts} texts of {options.tokens} tokens, {conditions()}")
    print(tabulate(rows, headers=["", "median s", "least s", "forward passes"], floatfmt=".3f"))


def _ways(model: tf.PreTrainedModel, batch: Batch) -> dict[str, Callable[[], object]]:
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    half = {name: list(range(site.heads // 2)) for name, site in hies.find_sites(model, inputs).items()}

    @torch.no_grad()
    def forward() -> None:
        model(**inputs)

    def masked() -> None:
        with hies.masked(model, half):
            forward()

    return {
        "forward pass": forward,
        "masked": masked,
        "sites found": lambda: hies.find_sites(model, inputs),
        "AE": lambda: hies.collect(model, [batch], need=("ae",)),
        "HIS and AE": lambda: hies.collect(model, [batch]),
    }


if __name__ == "__main__":
    main()
