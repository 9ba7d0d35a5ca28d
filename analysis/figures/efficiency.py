"""Size, FLOPs, latency and memory of really pruned models, in percent of the dense one (the paper's appendix E)."""

from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from analysis import style
from analysis.data.efficiency import COSTS, NEEDS, OF_TINYBERT, PAPER_FLOPS, load
from analysis.errors import Unavailable
from analysis.registry import figure
from analysis.text.labels import model_name

PANELS_IN_ROW = 2
# Latency lies over what the FLOPs promise, so that a gap shows.
COST_LOOKS: dict[str, dict[str, Any]] = {
    "flops": {"color": style.LOOKS["his"][0], "marker": "s", "linewidth": 3.6, "markersize": 8, "zorder": 3},
    "latency": {"color": style.LOOKS["hies"][0], "marker": "o", "zorder": 5},
    "parameters": {"color": style.LOOKS["ae"][0], "marker": "^", "zorder": 4},
    "peak_bytes": {"color": style.LOOKS["ad"][0], "marker": "v", "zorder": 4},
    "cache_bytes": {"color": style.LOOKS["l2"][0], "marker": "D", "zorder": 4},
}
STAR: dict[str, Any] = {
    "linestyle": "none", "marker": "*", "markersize": 11, "markerfacecolor": "white", "markeredgecolor": style.INK,
    "zorder": 6,
}  # fmt: skip


@figure(
    "efficiency",
    about="Parameters, FLOPs, latency, peak memory and key/value cache of really pruned models against the ratio.",
    needs=NEEDS,
    per=("device",),
    load=load,
)
def draw_efficiency(rows: pd.DataFrame) -> list[Axes]:
    """Draws a panel for each model."""
    if not (rows["ratio"] > 0).any():
        raise Unavailable("there are only measurements of dense models")
    models = [part for _, part in rows.groupby("model")]
    canvas, (panels,) = style.small_multiples(len(models), PANELS_IN_ROW, height=3.1)
    for axes, part in zip(panels, models, strict=True):
        _panel(axes, part)
    style.outer_labels(panels, "heads removed (%)", "% of the dense model")
    style.legend_beside(canvas, panels)
    style.headline(canvas, "What really pruned models cost", _caption(rows))
    return panels


def _panel(axes: Axes, part: pd.DataFrame) -> None:
    first = part.iloc[0]
    x = 100 * part["ratio"]
    for name, look in COST_LOOKS.items():
        if part[name].notna().any():
            edge: Any = {"markeredgecolor": "white", "markeredgewidth": 0.5}
            axes.plot(x, part[f"{name}_percent"], label=COSTS[name], **edge, **look)
    band: Any = {"color": COST_LOOKS["latency"]["color"], "alpha": 0.2, "linewidth": 0}
    axes.fill_between(x, part["latency_low_percent"], part["latency_high_percent"], **band)
    if first["architecture"] == "bert":
        axes.plot([100 * ratio for ratio in PAPER_FLOPS], list(PAPER_FLOPS.values()), label=OF_TINYBERT, **STAR)
    axes.set_title(f"{model_name(first['model'])}: {first['batch']} x {first['tokens']} tokens")
    axes.grid(axis="y")


def _caption(rows: pd.DataFrame) -> str:
    """What was measured and how."""
    text = f"Device: {rows['device'].iloc[0]}. Random weights, heads removed at random. Latency: seconds of a forward "
    text += f"pass, the dense and the pruned model in turn, CPU threads: {_range(rows['threads'])}; median of "
    text += f"{_range(rows['rounds'])} rounds; band: quartiles. Peak memory: weights and what a forward pass holds."
    return text + ' Stars: appendix E.1 says "about".' if (rows["architecture"] == "bert").any() else text


def _range(values: pd.Series) -> str:
    low, high = values.min(), values.max()
    return str(low) if low == high else f"{low} to {high}"
