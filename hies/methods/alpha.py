"""Ways to choose alpha of HIES: for each ratio or once for a task, by quality on a split or by calibration loss.

The paper's main tables search alpha "under each compression setting" (footnote 2); its appendix D.8 takes one alpha* a
task. Choosing on the reported split is optimistic, so that has names of its own.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from hies import equations

# Fine at the top end: after min-max HIS is heavy-tailed, so the entropy term dominates already at moderate alphas.
GRID = (0.99, 0.97, 0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)

# name -> (the split whose quality decides; None: the calibration examples' loss, one alpha for all ratios)
PROTOCOLS: dict[str, tuple[str | None, bool]] = {
    "auto": (None, False),
    "per_ratio": ("selection", False),
    "per_task": ("selection", True),
    "per_ratio_on_report": ("report", False),
    "per_task_on_report": ("report", True),
}


def best_per_ratio(values: Tensor, alphas: Sequence[float]) -> list[float]:
    """The alpha of the highest value for each ratio; of equal ones the largest, which is nearest to HIS.

    Args:
        values: quality, or minus the loss; higher is better, NaN is worst, [alphas, ratios].
        alphas: [alphas].
    """
    order = sorted(range(len(alphas)), key=lambda i: -alphas[i])
    ranked = values[order].nan_to_num(nan=-torch.inf)
    return [alphas[order[int(place)]] for place in ranked.argmax(dim=0)]


def best_per_task(quality: Tensor, ratios: Sequence[float], alphas: Sequence[float]) -> float:
    """alpha*, appendix D.8: the alpha of the largest weighted area under the quality curve; ties as above.

    Args:
        quality: in percent, NaN where undefined, [alphas, ratios].
        ratios: the pruned ratios, [ratios].
        alphas: [alphas].
    """
    areas = equations.weighted_area(quality, torch.tensor(ratios, dtype=quality.dtype))
    return best_per_ratio(areas[:, None], alphas)[0]
