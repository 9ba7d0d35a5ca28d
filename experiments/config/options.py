"""Names of options: those of the library's parameters, and those that older commands used."""

import re
from collections.abc import Sequence

from hies.errors import HiesError, ParameterError

# A parameter of the library -> the option that sets it. Names that a group's own check raises get the group's name
# where the group is made (schema.to_config); here are those that are raised later.
GROUP_OF = {
    **dict.fromkeys(("ratios", "scope", "unit", "schedule", "step", "min_heads_per_layer", "plain"), "sparsity"),
    **dict.fromkeys(("size", "examples", "labels"), "calibration"),
    **dict.fromkeys(("alpha", "tune_learning_rate", "tune_batch_size"), "criterion"),
    **dict.fromkeys(("batch_size", "sites", "max_length", "label_order", "pretrain_task", "architecture"), "model"),
    **dict.fromkeys(("source", "checkpoint"), "model"),
    **dict.fromkeys(("finetune", "max_examples", "libraries", "shots", "new_tokens"), "task"),
}
OPTION_OF = {name: f"{group}.{name}" for name, group in GROUP_OF.items()}
OPTION_OF |= {"ratio": "sparsity.ratios", "learning_rate": "model.finetune.learning_rate"}
# A choice of an older command -> the same choice now.
CHOICES = {
    "criterion": {
        **{f"his_{name}": f"his/{name}" for name in ("per_batch", "per_batch_l2", "per_token")},
        **{f"ae_{name}": f"ae/{name}" for name in ("renyi", "tsallis", "gini", "min", "support")},
        **{
            f"hies_{name}": f"hies/{name}"
            for name in (
                *("auto", "per_ratio", "per_task", "optimistic", "layer", "rank", "product", "printed", "per_batch"),
                *("output_norm", "renyi", "tsallis", "gini", "min", "support"),
            )
        },
        "slicegpt_tuned": "slicegpt/tuned",
    },
    "task": {"rte_after_mnli": "rte/after_mnli"},
}
# An option of an older command -> the same option now.
KEYS = {"model.home": "model.pretrain_task"}


def with_option(error: HiesError) -> HiesError:
    """Returns the error with the name of the option that sets its parameter, where there is one."""
    if isinstance(error, ParameterError):
        name, dot, part = error.name.partition(".")  # of an option that is a mapping
        return error.renamed(f"{OPTION_OF.get(name, name)}{dot}{part}")
    return error


def translated(words: Sequence[str]) -> list[str]:
    """Returns the words of a command line with the names of now in the place of older ones."""
    return [_translated(word) for word in words]


def _translated(word: str) -> str:
    if (match := re.fullmatch(r"(\+{0,2}~?)([\w.]+)=(.*)", word, re.DOTALL)) is None:
        return word
    prefix, key, value = match.groups()
    if key in CHOICES:
        value = ",".join(CHOICES[key].get(name.strip(), name) for name in value.split(","))
    return f"{prefix}{KEYS.get(key, key)}={value}"
