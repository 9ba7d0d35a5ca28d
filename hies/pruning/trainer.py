"""Checkpoints of transformers' `Trainer` that load again when the model that it trains is a pruned one."""

import sys
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from hies.errors import HiesError
from hies.pruning.files import check_savable, save_pruned


class PrunedCheckpoints(TrainerCallback):
    """Writes the model of every checkpoint as `hies.save_pruned` does, so that `hies.load_pruned` loads it.

    `Trainer(model, ..., callbacks=[hies.PrunedCheckpoints()])`; it resumes from such checkpoints as from its own.

    Of a model with adapters of peft, `Trainer` writes these alone, which need no record: nothing is done then. What
    `hies.save_pruned` refuses, a dense model among it, is refused before the first step: its checkpoints could not be
    what was asked for.
    """

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: PreTrainedModel | None = None,
        **others: Any,
    ) -> None:
        """Raises HiesError for a model that the first checkpoint could not be written of."""
        if model is None or _is_saved_as_adapters(model):
            return
        try:
            check_savable(model)
        except HiesError as error:
            reason = str(error).rstrip(".")
            raise HiesError(f"hies.PrunedCheckpoints: {reason}; train it without this callback.") from None

    def on_save(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: PreTrainedModel | None = None,
        **others: Any,
    ) -> None:
        """Replaces the weights that were just saved, which lack the record of the heads that were removed."""
        if model is not None and state.is_world_process_zero and not _is_saved_as_adapters(model):
            save_pruned(model, Path(str(args.output_dir)) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}")


def _is_saved_as_adapters(model: Any) -> bool:
    """Returns True for a model of peft, and for one that transformers itself has put adapters on."""
    peft = sys.modules.get("peft")  # nothing is of peft where nobody has imported it
    of_peft = peft is not None and isinstance(model, peft.PeftModel | peft.PeftMixedModel)
    return of_peft or bool(getattr(model, "_hf_peft_config_loaded", False))
