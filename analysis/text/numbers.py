"""Numbers as tables and captions print them."""

from collections.abc import Mapping
from typing import Any

import numpy as np


def percent(ratio: float) -> str:
    """Returns a ratio as people read it: 0.3 -> 30 %."""
    return f"{100 * ratio:g} %"


def number(value: float, style: str = ".2f") -> str:
    """Returns a number, or nothing where there is none."""
    return "" if np.isnan(value) else format(value, style)


def signed(value: float) -> str:
    """Returns a difference to two digits with its sign; no sign on zero."""
    return f"{value:+.2f}" if round(value, 2) else "0.00"


def signed_interval(estimate: Mapping[Any, Any]) -> str:
    """Returns `mean [low, high]` of the keys mean, low and high; the mean alone where there is no interval."""
    mean, low, high = (float(estimate[name]) for name in ("mean", "low", "high"))
    return signed(mean) + ("" if np.isnan(low) else f" [{signed(low)}, {signed(high)}]")
