"""Why HIS alone falls: its sharp drop, what the removed heads attended to, and where they lie (paper's figure 1)."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm

from analysis import choice, labels, style
from analysis.captions import caption, percent
from analysis.diagnosis import Diagnosis, load_diagnosis
from analysis.errors import Unavailable
from analysis.registry import figure
from analysis.scores import load_scores

REMOVED, KEPT = "#222222", "#B9D3E8"  # of the histograms: dark and light in print too


@figure(
    "figure1",
    about="The sharp drop of HIS, attention of kept and removed heads on an example that it loses, HIS and AE of both.",
    needs="rows and score files of his, and the diagnosis that `python -m experiments.diagnose` writes beside them",
)
def draw(rows: pd.DataFrame) -> list[Axes]:
    """Curve; heat map heads x tokens; two histograms; all of the seed that was diagnosed."""
    his = rows[rows["curve"] == choice.plainest(rows, "his")]
    if his.empty:
        raise Unavailable("there are no rows of his")
    found = load_diagnosis(his.iloc[0])
    run = his[his["seed"] == found.seed]
    if run.empty:
        raise Unavailable(f"his has no rows of the diagnosed seed {found.seed}")
    scores = load_scores(run.iloc[0])
    if any(len(scores.values.get(name, ())) != len(found.removed) for name in ("his", "ae")):
        raise Unavailable(f"the score file of {run['run_id'].iloc[0]} lacks his or ae, or has other heads")
    canvas = style.new_figure(13.2, 6)
    widths: Any = {"width_ratios": (3, 6.2, 3)}
    panels = canvas.subplot_mosaic([["curve", "heat", "his"], ["curve", "heat", "ae"]], **widths)
    _curve(panels["curve"], his, found)
    _heat(panels["heat"], found)
    for name in ("his", "ae"):
        _histogram(panels[name], scores.values[name], found.removed, name.upper())
    beside: Any = {"loc": "lower right", "bbox_to_anchor": (1.02, 1), "borderaxespad": 0.2, "ncols": 2}
    panels["his"].legend(fontsize=8.5, handlelength=1, columnspacing=1, **beside)
    task = labels.task_name(rows["task"].iloc[0])
    style.headline(canvas, f"What HIS removes: {rows['model'].iloc[0]} on {task}", _caption(his, found))
    return list(panels.values())


def _curve(axes: Axes, his: pd.DataFrame, found: Diagnosis) -> None:
    """Quality of every seed against the ratio; the diagnosed one strong, its steepest drop shaded."""
    color, marker = style.LOOKS["his"]
    for seed, run in his.groupby("seed"):
        run, here = run.sort_values("ratio"), seed == found.seed
        look = {"linewidth": 2.4, "marker": marker} if here else {"linewidth": 0.8, "alpha": 0.45}
        axes.plot(100 * run["ratio"], run["quality"], color=color, label=f"HIS, seed {seed}" if here else None, **look)
    before, after = (_quality_at(his, found.seed, ratio) for ratio in (found.ratio_before, found.ratio))
    drop = f"{percent(found.ratio_before)} to {percent(found.ratio)}:\n{after - before:+.1f} points"
    drop = drop.replace("-", "\N{MINUS SIGN}")
    axes.axvspan(100 * found.ratio_before, 100 * found.ratio, color="#F6D8C6", linewidth=0, zorder=0, label=drop)
    axes.grid(axis="y")
    axes.legend(loc="lower left", fontsize=8.5)
    axes.set(xlabel="heads removed (%)", ylabel="quality (%)", title="Sharp drop")


def _quality_at(his: pd.DataFrame, seed: int, ratio: float) -> float:
    values = his.loc[(his["seed"] == seed) & np.isclose(his["ratio"], ratio), "quality"]
    return float(values.iloc[0]) if len(values) else np.nan


def _heat(axes: Axes, found: Diagnosis) -> None:
    """The kept heads above the removed ones, in each block the most focused head first."""
    blocks = [_focused_first(found.attention[~found.removed]), _focused_first(found.attention[found.removed])]
    gap = np.full((max(1, len(found.removed) // 36), len(found.tokens)), np.nan)
    rows = np.vstack([blocks[0], gap, blocks[1]])
    mesh = axes.pcolormesh(np.ma.masked_invalid(rows), norm=PowerNorm(0.5, 0, np.nanmax(rows)), cmap="viridis")
    axes.set(ylim=(len(rows), 0), title="Attention to each token")
    starts = (0, len(blocks[0]) + len(gap))
    names = [f"{word} ({len(block)} heads)" for word, block in zip(("kept", "removed"), blocks, strict=True)]
    centers = [start + len(block) / 2 for start, block in zip(starts, blocks, strict=True)]
    axes.set_yticks(centers, names, rotation=90, va="center")
    axes.set_xticks(np.arange(len(found.tokens)) + 0.5, found.tokens, rotation=90, fontsize=8, parse_math=False)
    style.plain_box(axes)
    bar = axes.figure.colorbar(mesh, ax=axes, location="bottom", aspect=50, shrink=0.7, pad=0.02)
    bar.outline.set_visible(False)
    bar.set_label("share of attention, mean over queries (square-root scale)", fontsize=8.5)


def _focused_first(attention: np.ndarray) -> np.ndarray:
    """Rows [heads, tokens] by the entropy of each row, the lowest first."""
    logs = np.log(np.where(attention > 0, attention, 1.0))
    return attention[np.argsort(-(attention * logs).sum(axis=1), kind="stable")]


def _histogram(axes: Axes, values: np.ndarray, removed: np.ndarray, name: str) -> None:
    """Heads by value, removed ones stacked on kept ones; HIS on a logarithmic scale where all are positive."""
    logarithmic = name == "HIS" and bool((values > 0).all())
    edges = (np.geomspace if logarithmic else np.linspace)(values.min(), values.max(), 21)
    parts = [values[removed], values[~removed]]
    axes.hist(parts, edges.tolist(), stacked=True, color=[REMOVED, KEPT], label=["removed", "kept"], edgecolor="white")
    if logarithmic:
        axes.set_xscale("log")
        ticks = np.geomspace(values.min(), values.max(), 3)  # one decade or three: never more labels than fit
        axes.set_xticks(ticks, labels=[f"{tick:.1g}" for tick in ticks], minor=False)
        axes.minorticks_off()
    axes.set(title=name, ylabel="heads", xlabel=name + " (logarithmic)" * logarithmic)
    axes.grid(axis="y")


def _caption(his: pd.DataFrame, found: Diagnosis) -> str:
    text = f"{caption(his)}. Diagnosed: seed {found.seed} at {percent(found.ratio)} removed, the ratio after the "
    text += f"steepest drop. Example {found.example} of the report split: label {found.label}; the unpruned model says "
    text += (
        f"{found.unpruned}, the pruned one {found.pruned}. Attention of the unpruned model, rows sum to 1, the most "
    )
    return text + "focused heads first. Thin lines: other seeds."
