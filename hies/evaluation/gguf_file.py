"""A GGUF file as a folder of plain weights and their tokenizer, both read by transformers."""

import re
import warnings
from collections import Counter
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig, PreTrainedModel

from hies.batch_size import is_out_of_memory
from hies.errors import HiesError, first_line
from hies.evaluation.weights import INSTALL, NOTE
from hies.storage import save_weights

# `tokenizer.ggml.pre`, the rule by which words are split, of tokenizers that set each digit apart before all else.
# transformers' reader takes GPT-2's rule for them, and for every name that it does not know.
DIGITS_FIRST = {"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"}
AS_GPT2 = {"default", "gpt-2", "mpt", "olmo", "jais", "trillion"}


def dequantise(file: Path, folder: Path, dtype: str) -> None:
    """Writes the weights of a GGUF file as safetensors, its tokenizer, and a note of what the weights were.

    Args:
        file: of a causal language model.
        folder: an empty one.
        dtype: of the weights that are written, `float32` or `bfloat16`.

    Raises:
        HiesError: the package gguf is missing, or transformers cannot read the file.
    """
    if find_spec("gguf") is None:
        raise HiesError(f"{file} is read by the package gguf, which is not installed; {INSTALL}.")
    try:
        header = import_module("gguf").GGUFReader(file)
        network = _network(file, dtype)
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    except Exception as error:  # damaged bytes and unknown architectures raise errors of many kinds
        if is_out_of_memory(error):
            raise
        raise HiesError(
            f"{file} is no GGUF file of a language model that transformers can read ({first_line(error)})."
        ) from error
    _split_words(tokenizer, header)
    save_weights(network, folder)
    tokenizer.save_pretrained(folder)
    (folder / NOTE).write_text(f"{_description(header)}\n", encoding="utf-8")


def _network(file: Path, dtype: str) -> PreTrainedModel:
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        file.parent,
        gguf_file=file.name,
        dtype=getattr(torch, dtype),
        quantization_config=GgufConfig(dequantize=True),  # taken off again, so that the model can be saved
        output_loading_info=True,
    )
    network, report = loaded
    if missing := sorted(report["missing_keys"]):
        raise ValueError(f"it lacks the weights {missing[0]!r}")
    return network


def _split_words(tokenizer: Any, header: Any) -> None:
    """Puts right how a tokenizer splits words where transformers' reader leaves a rule out; warns of unknown ones."""
    rule = _text(header, "tokenizer.ggml.pre") or "default"
    backend = tokenizer.backend_tokenizer
    if rule in DIGITS_FIRST:
        digits = pre_tokenizers.Digits(individual_digits=True)
        backend.pre_tokenizer = pre_tokenizers.Sequence([digits, backend.pre_tokenizer])
    elif _text(header, "tokenizer.ggml.model") == "gpt2" and rule not in AS_GPT2 | _rules_of_transformers():
        warnings.warn(
            f"Words are split by {rule!r} in this GGUF file, which transformers does not know: it takes "
            "GPT-2's rule, and some tokens may be others than the model was trained on.",
            stacklevel=2,
        )


def _rules_of_transformers() -> set[str]:
    from transformers.integrations.gguf import gguf_tokenizer_mapping

    return {*gguf_tokenizer_mapping.GGUF_PRE_TOKENIZER_SPLITS}


def _text(header: Any, key: str) -> str:
    """Returns a text of a file's header, empty where it has none."""
    return str(field.contents()) if (field := header.get_field(key)) else ""


def _description(header: Any) -> str:
    """Returns what most of a file's weights are, such as `4-bit weights, dequantised`."""
    sizes: Counter[str] = Counter()
    for tensor in header.tensors:
        sizes[tensor.tensor_type.name] += int(tensor.n_elements)
    kind = sizes.most_common(1)[0][0]  # Q4_1, IQ3_XXS, F16
    bits = re.match(r"I?Q(\d)", kind)
    return f"{bits[1]}-bit weights, dequantised" if bits else f"{kind} weights"
