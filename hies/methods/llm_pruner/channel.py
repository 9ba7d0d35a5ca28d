"""LLM-Pruner, channel-wise (Ma et al. 2023, arXiv 2305.11627), on the attention alone: channels of the residual go."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import hies
from hies.methods.base import Calibration, Method
from hies.methods.llm_pruner.block import MATRICES, check_saliences

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class LLMPrunerChannel(Method):
    """The channels of the residual stream that matter least to all attention layers together go, the same everywhere.

    A channel is a column of the query, key and value matrices and a row of the output matrix of every site; heads stay
    as they are, and so do channels outside the attention.

    Attributes:
        taylor: as in `LLMPrunerBlock`.
        reduction: as in `LLMPrunerBlock`, with all sites' saliences of a matrix summed before it.
    """

    name: ClassVar[str] = "llm_pruner_channel"

    taylor: str = "first"
    reduction: str = "sum"

    def __post_init__(self) -> None:
        check_saliences(self.taylor, self.reduction)

    def check(self, model: "PreTrainedModel") -> None:
        """Refuses a model whose attention, by code and shapes alone, does not read and write one residual stream."""
        from hies.methods.llm_pruner.channels import one_stream

        one_stream(model)

    def saliences(self, model: "PreTrainedModel", calibration: Calibration) -> "Tensor":
        """Returns one number for every channel of the residual stream, non-negative, float64 [channels]."""
        from hies.heads.weights import check_weights_are_here
        from hies.methods.llm_pruner.channels import one_stream
        from hies.methods.llm_pruner.salience import group_salience
        from hies.methods.llm_pruner.taylor import channel_saliences
        from hies.scoring.own_loss import with_loss

        check_weights_are_here(model, "LLM-Pruner")
        by_name = channel_saliences(model, one_stream(model), *with_loss(model, calibration.batches))
        saliences = [by_name[f"{matrix}/{self.taylor}"] for matrix in MATRICES]
        return group_salience(saliences, self.reduction)

    @contextlib.contextmanager
    def pruned(self, model: "PreTrainedModel", calibration: Calibration, ratio: float) -> "Iterator[PreTrainedModel]":
        """Gives `model` with round(ratio * channels) channels cut out of its attention, ties by position."""
        from hies.methods.llm_pruner.channels import one_stream, without_channels

        sites = one_stream(model)
        saliences = self.saliences(model, calibration)
        removed = saliences.argsort(stable=True)[: hies.equations.removal_count(ratio, len(saliences))]
        with without_channels(sites, removed):
            yield model
