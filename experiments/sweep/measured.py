"""What a row says of the model pruned at one ratio, and the losses beside the rows."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from hies.runs import files as results
from hies.runs.quality import mean_loss, stability
from hies.runs.schema import LOSSES, TOKEN_KEYS

if TYPE_CHECKING:
    from hies.evaluation.evaluation import Evaluation
    from hies.evaluation.evaluator import Evaluator
    from hies.heads.sites import Removed


def measured_at(evaluator: "Evaluator", removed: "Removed", result: "Evaluation", unpruned: np.ndarray) -> results.Row:
    """Returns what is measured at one ratio; unpruned: answers of the whole model, [examples]."""
    from hies.evaluation.metrics import quality as quality_of

    value, quality = evaluator.measure(result.answers)
    metric, labels = evaluator.task.metric, evaluator.labels("report")
    return {
        "heads_removed": sum(len(heads) for heads in removed.values()),
        "mask": removed,
        "value": value,
        "quality": quality,
        "stability": stability(result.answers, unpruned),
        "examples": len(labels),
        "parameters": result.cost and result.cost.parameters,
        "flops": result.cost and result.cost.flops,
        **{f"quality_{rule}": quality_of(metric, labels, answers)[1] for rule, answers in result.by_rule.items()},
        **({} if result.tokens is None else dict(zip(TOKEN_KEYS, result.tokens.tolist(), strict=True))),
        "loss": None,
        **{LOSSES[name]: mean_loss(losses) for name, losses in result.losses.items()},
    }


def loss_arrays(losses: Sequence[Mapping[str, np.ndarray]], examples: int) -> dict[str, np.ndarray]:
    """Returns the losses of a run, [ratios, examples] by name; NaN at ratios without any, none that no ratio has."""
    missing = np.full(examples, np.nan, dtype=np.float32)
    known = [name for name in LOSSES if any(name in one for one in losses)]
    return {name: np.stack([one.get(name, missing) for one in losses]) for name in known}
