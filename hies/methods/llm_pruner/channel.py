"""LLM-Pruner, channel-wise (Ma et al. 2023, arXiv 2305.11627), on the attention alone: channels of the residual go."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from transformers import PreTrainedModel

from hies import equations
from hies.methods.llm_pruner.block import check_saliences
from hies.methods.llm_pruner.channels import one_stream, without_channels
from hies.methods.llm_pruner.taylor import MATRICES, channel_saliences
from hies.methods.method import Calibration, Method
from hies.scoring.losses import default_loss


@dataclass(frozen=True)
class LLMPrunerChannel(Method):
    """The channels of the residual stream that matter least to all attention layers together go, the same everywhere.

    A channel is a column of the query, key and value matrices and a row of the output matrix of every site; heads stay
    as they are, and so do channels outside the attention. taylor, reduction: as in `LLMPrunerBlock`, with all sites'
    saliences of a matrix summed before the reduction.
    """

    name: ClassVar[str] = "llm_pruner_channel"

    taylor: str = "first"
    reduction: str = "sum"

    def __post_init__(self) -> None:
        check_saliences(self.taylor, self.reduction)

    def check(self, model: PreTrainedModel) -> None:
        """Refuse a model whose attention does not read and write one residual stream, see `one_stream`.

        Raises:
            UnsupportedModelError: it does not; found by the model's code and the shapes of its weights alone.
        """
        one_stream(model)

    def saliences(self, model: PreTrainedModel, calibration: Calibration) -> Tensor:
        """One number for every channel of the residual stream, non-negative, float64 [channels]."""
        found = channel_saliences(model, one_stream(model), calibration.batches, default_loss(model))
        return equations.group_salience(
            torch.stack([found[f"{matrix}/{self.taylor}"] for matrix in MATRICES]), self.reduction
        )

    @contextlib.contextmanager
    def pruned(self, model: PreTrainedModel, calibration: Calibration, ratio: float) -> Iterator[PreTrainedModel]:
        """`model` with round(ratio * channels) channels cut out of its attention, ties by position; see `Method`."""
        sites = one_stream(model)
        saliences = self.saliences(model, calibration)
        gone = saliences.argsort(stable=True)[: equations.removal_count(ratio, len(saliences))]
        with without_channels(sites, gone):
            yield model
