"""The loss of each example, which head importance differentiates: what fits a model by its logits and labels."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from hies.errors import HiesError

Loss = Callable[[Any, Mapping[str, Any]], Tensor]  # (model outputs, batch) -> [batch]

ONE_CLASS, SEVERAL_CLASSES = "single_label_classification", "multi_label_classification"  # transformers' words
IGNORED = -100  # label of a token that does not count, as everywhere in transformers
OF_TRAINER = "num_items_in_batch"
LOSS_REMEDY = "pass loss=(outputs, batch) -> [batch]"


@dataclass(frozen=True)
class DefaultLoss:
    """The loss of each example by the shape of the logits: (outputs, batch) -> [batch].

    For classes and regressions it is what `problem_type` of the model's config says (None: squared error of one output,
    cross-entropy of whole-number labels, binary cross-entropy of fractions), for tokens the mean negative
    log-likelihood of those that are labelled.

    Attributes:
        problem_type: of the model's config, a name of transformers or None.
        shifted: the model generates from left to right, so a token's label is read off the logits before it.
    """

    problem_type: str | None
    shifted: bool

    def __call__(self, outputs: Any, batch: Mapping[str, Any]) -> Tensor:
        """Returns the losses [batch], at least float32."""
        totals, counts = self.parts(outputs, batch)
        return totals / counts

    def parts(self, outputs: Any, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """Returns the loss of each example as the sum of its labelled places and their number, both [batch]."""
        if batch.get("labels") is None:
            raise HiesError(
                "A batch has no 'labels', which a loss and its gradient need; add them, or pass loss=(outputs, batch) "
                "-> [batch] (hies.collect(..., need=('ae',)) takes none)."
            )
        logits, labels = value_of(outputs, "logits"), self.labels_of(batch)
        if not isinstance(logits, Tensor):
            remedy = "set return_dict=True" if isinstance(outputs, tuple) else "load it with a task's head"
            raise HiesError(f"The model gives no logits in its {type(outputs).__name__}; {remedy}, or {LOSS_REMEDY}.")
        if not isinstance(labels, Tensor) or logits.dim() not in (2, 3):
            shape, kind = tuple(logits.shape), type(labels).__name__
            raise HiesError(f"No loss is known for logits of the shape {shape} and labels in a {kind}; {LOSS_REMEDY}.")
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if logits.dim() == 3:
            return _token_parts(logits, labels, self.shifted)
        each = _example_losses(logits, labels, self.kind_of(logits, labels))
        return each, torch.ones_like(each)

    def kind_of(self, logits: Tensor, labels: Tensor) -> str:
        """Returns the problem type for logits [batch, outputs], as transformers' classifiers choose it."""
        if self.problem_type is not None:
            return self.problem_type
        if logits.shape[-1] == 1:
            return "regression"
        return SEVERAL_CLASSES if labels.is_floating_point() else ONE_CLASS

    def labels_of(self, batch: Mapping[str, Any]) -> Any:
        """Returns the labels; a token that only padding comes before carries none, as in the text alone."""
        labels, mask = batch.get("labels"), batch.get("attention_mask")
        if not self.shifted or not isinstance(mask, Tensor) or not isinstance(labels, Tensor):
            return labels  # masks of each kind of layer come in a dict
        if mask.shape != labels.shape:
            return labels
        return torch.cat([labels[:, :1], labels[:, 1:].masked_fill(mask[:, :-1] == 0, IGNORED)], dim=1)


def default_loss(model: nn.Module) -> DefaultLoss:
    """Returns the loss that fits a model, or the one model inside a module; `hies.scoring.own_loss` checks it."""
    inside = models_inside(model)
    alone = inside[0] if len(inside) == 1 else None
    shifted = alone is not None and alone.can_generate() and not reads_encoder(model)
    return DefaultLoss(getattr(alone.config, "problem_type", None) if alone else None, shifted)


def check_losses(losses: Tensor, examples: int, differentiable: bool = True) -> None:
    """Raises HiesError for a loss that is not one number for each example, [examples], or has no gradient."""
    if losses.shape != (examples,):
        several = f"{examples} example{'s' if examples > 1 else ''}"
        raise HiesError(f"The loss has the shape {tuple(losses.shape)} for {several}, not one each.")
    if differentiable and not losses.requires_grad:
        raise HiesError(
            "The loss does not depend on the model's outputs, or they were detached (torch.utils.checkpoint with "
            "use_reentrant=True does so), so it has no gradient."
        )


def models_inside(module: nn.Module) -> list[PreTrainedModel]:
    """Returns the models of transformers in a module, itself or the outermost inside it, whatever stands beside."""
    if isinstance(module, PreTrainedModel):
        return [module]
    return list(dict.fromkeys(model for child in module.children() for model in models_inside(child)))


def reads_encoder(model: nn.Module) -> bool:
    """Returns True for a model whose decoder reads from an encoder and takes its inputs from labels."""
    return any(getattr(one.config, "is_encoder_decoder", False) for one in models_inside(model))


def inputs_of(model: nn.Module, batch: Mapping[str, Any], loss: Loss) -> dict[str, Any]:
    """Returns what a model reads of a batch: labels only where its decoder, or another loss, may need them.

    Without labels a model computes no loss itself, which `DefaultLoss` does not read. What a trainer divides the loss
    of a batch by is left out: an example's loss is that of the example alone. A caller's loss may read items that the
    model's forward does not take.

    Raises:
        HiesError: the forward does not take an item, and no loss of the caller's reads it.
    """
    names = taken_by(model)
    batch = {name: value for name, value in batch.items() if name != OF_TRAINER}
    if not isinstance(loss, DefaultLoss):
        return {name: value for name, value in batch.items() if names is None or name in names}
    unknown = [name for name in batch if names is not None and name not in names and name != "labels"]
    if unknown:
        raise HiesError(f"{type(model).__name__} takes no {unknown[0]!r}; leave it out of the batches.")
    keep_labels = reads_encoder(model) and (names is None or "labels" in names)
    return {name: value for name, value in batch.items() if keep_labels or name != "labels"}


def is_of_transformers(model: nn.Module) -> bool:
    """Returns True for a model whose forward transformers has written."""
    return type(model).forward.__module__.startswith("transformers.")


def taken_by(model: nn.Module) -> frozenset[str] | None:
    """Returns the names that a model's forward takes; None: any."""
    parameters = inspect.signature(model.forward).parameters
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        return None
    return frozenset(parameters)


def value_of(outputs: Any, name: str) -> Any:
    """Returns an output by its name, from a dict or from attributes; None if there is none."""
    return outputs.get(name) if isinstance(outputs, Mapping) else getattr(outputs, name, None)


def _example_losses(logits: Tensor, labels: Tensor, kind: str) -> Tensor:
    """Returns the loss of logits [batch, outputs] and labels [batch], [batch, 1] or [batch, outputs]: [batch]."""
    one_each = labels.numel() == len(logits)
    if kind == ONE_CLASS and one_each and not labels.is_floating_point():
        return _class_loss(logits, labels.reshape(-1))
    if kind == "regression" and logits.shape[-1] == 1 and one_each:
        return (logits.squeeze(-1) - labels.reshape(-1).to(logits.dtype)) ** 2
    if kind == "regression" and labels.shape == logits.shape:
        return ((logits - labels.to(logits.dtype)) ** 2).mean(dim=-1)
    if kind == SEVERAL_CLASSES and labels.shape == logits.shape:
        return F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype), reduction="none").mean(dim=-1)
    tokens = "" if labels.dim() < 2 else " (hies.batches makes tokens the labels of texts, unless labels= gives others)"
    raise HiesError(
        f"Labels of the shape {tuple(labels.shape)} and {labels.dtype} do not fit logits of the shape "
        f"{tuple(logits.shape)} for problem_type {kind!r}; mend them{tokens}, or {LOSS_REMEDY}."
    )


def _class_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy: logits [batch, classes], labels [batch] -> [batch]."""
    outside = (labels < 0) | (labels >= logits.shape[-1])  # -100 among them: every example counts
    if outside.any():
        classes = f"outside the model's classes 0 to {logits.shape[-1] - 1}"
        raise HiesError(f"A calibration example has the label {int(labels[outside][0])}, {classes}.")
    return F.cross_entropy(logits, labels.long(), reduction="none")


def _token_parts(logits: Tensor, labels: Tensor, shifted: bool) -> tuple[Tensor, Tensor]:
    """Negative log-likelihood over each example's labelled tokens, logits [batch, tokens, words]: sums and counts."""
    if labels.shape != logits.shape[:2] or labels.is_floating_point():
        shape = tuple(labels.shape)
        raise HiesError(
            f"Labels of the shape {shape} do not fit logits of the shape {tuple(logits.shape)}; {LOSS_REMEDY}."
        )
    if shifted:
        logits, labels = logits[:, :-1], labels[:, 1:]
    outside = ((labels < 0) & (labels != IGNORED)) | (labels >= logits.shape[-1])
    if outside.any():
        words = f"outside the model's words 0 to {logits.shape[-1] - 1}"
        raise HiesError(f"A calibration token has the label {int(labels[outside][0])}, {words}.")
    each = F.cross_entropy(logits.mT, labels.long(), reduction="none", ignore_index=IGNORED)
    counted = (labels != IGNORED).sum(dim=-1)
    if (counted == 0).any():
        raise HiesError("A calibration example has no labelled token (all labels are -100), so it has no loss.")
    return each.sum(dim=-1), counted
