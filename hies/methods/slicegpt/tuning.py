"""Recovery tuning of a sliced model: low-rank updates (LoRA, Hu et al. 2021) of the matrices of its layers, merged."""

from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from hies.batch_size import is_out_of_memory
from hies.batching import Encoded
from hies.errors import HiesError, ParameterError
from hies.precision import chance_kept
from hies.training import Finetuning
from hies.training.loop import finetune

BETWEEN = (".enter", ".restore")  # modules between d and k dimensions, see `modules.py`


def lora() -> Any:
    """Returns the package peft, or raises HiesError where it is not installed."""
    try:
        import peft
    except ImportError:
        raise HiesError("Tuning after slicing needs the package peft: pip install -e '.[tuning]'.") from None
    return peft


def recover(
    model: PreTrainedModel, train: Encoded, settings: Finetuning, rank: int, examples: int, precision: str
) -> None:
    """Tunes the layers of `model` in place; the embeddings, what enters and leaves the residual, and the head stay.

    Args:
        model: a sliced model with a classifier.
        train: all training examples.
        settings: the last epoch counts; the seed draws the examples, their order, and the first updates.
        rank: of the updates, which begin at zero and count once (LoRA's alpha is the rank).
        examples: of the training examples, at most.
        precision: see `hies.precision.computing`.

    Raises:
        HiesError: peft is missing, the loss is not finite, or the memory does not hold a batch.
    """
    peft = lora()
    chosen = np.random.default_rng(settings.seed).permutation(len(train))[:examples]
    some = Encoded([train.features[i] for i in chosen], train.pad)
    config = peft.LoraConfig(r=rank, lora_alpha=rank, lora_dropout=0.0, target_modules=layer_matrices(model))
    with chance_kept():
        torch.manual_seed(settings.seed)
        tuner = peft.LoraModel(model, {"default": config}, "default")
    try:
        finetune(model, some, lambda _: 0.0, settings, "tuning what slicing left", precision)
    except ParameterError as error:
        raise error.renamed(f"tune_{error.name}") from error
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        expected = "the memory does not hold a batch while tuning; give a smaller one"
        raise ParameterError("tune_batch_size", settings.batch_size, expected) from error
    tuner.merge_and_unload()


def layer_matrices(model: PreTrainedModel) -> list[str]:
    """Returns the names of the Linears inside the layers of a sliced model, save those between k and d dimensions."""
    stacks = [stack for stack in model.base_model.modules() if isinstance(stack, nn.ModuleList)]
    inside = {module for stack in stacks for module in stack.modules() if isinstance(module, nn.Linear)}
    return [name for name, module in model.named_modules() if module in inside and not name.endswith(BETWEEN)]
