"""Checkpoints of transformers' `Trainer` that load again when the model that it trains is a pruned one."""

from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from hies.pruning.files import save_pruned


class PrunedCheckpoints(TrainerCallback):
    """Writes the model of every checkpoint as `hies.save_pruned` does, so that `hies.load_pruned` loads it.

    `Trainer(model, ..., callbacks=[hies.PrunedCheckpoints()])`; it resumes from such checkpoints as from its own.
    """

    def on_save(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: PreTrainedModel | None = None,
        **others: Any,
    ) -> None:
        """Replaces the weights that were just saved, which lack the record of the heads that were removed."""
        if model is not None and state.is_world_process_zero:
            save_pruned(model, Path(str(args.output_dir)) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}")
