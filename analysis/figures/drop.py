"""Why HIS alone falls: its steepest drop, what the removed heads attended to, and where they lie (paper's figure 1)."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm

from analysis import style
from analysis.data.diagnosis import Diagnosis, load_diagnosis
from analysis.data.scores import load_scores
from analysis.errors import Unavailable
from analysis.registry import OF_TASK, figure
from analysis.text import choice
from analysis.text.captions import caption, heading, percent

# Of the histograms: dark and light in print too.
PARTS: Any = {"label": ["removed", "kept"], "color": [style.INK, style.LOOKS["output_norm"][0]], "edgecolor": "white"}


@figure(
    "figure1",
    about="The steepest drop of HIS, attention of kept and removed heads on an example it loses, HIS and AE of both.",
    needs="rows and score files of his, and the diagnosis that `python -m experiments.diagnose` writes beside them",
    per=OF_TASK,
)
def draw_figure1(rows: pd.DataFrame) -> list[Axes]:
    """Draws curve; heat map heads x tokens; two histograms; all of the seed that was diagnosed."""
    his = choice.usual_run(rows, "his")
    if his.empty:
        raise Unavailable("there are no rows of his")
    case = load_diagnosis(his.iloc[0])
    run = his[his["seed"] == case.seed]
    if run.empty:
        raise Unavailable(f"his has no rows of the diagnosed seed {case.seed}")
    scores = load_scores(run.iloc[0])
    if any(len(scores.values.get(name, ())) != len(case.removed) for name in ("his", "ae")):
        raise Unavailable(f"the score file of {run['run_id'].iloc[0]} lacks his or ae, or has other heads")
    at = run.loc[np.isclose(run["ratio"], case.ratio), "mask"]
    if any(not np.array_equal(scores.removed(mask)[scores.there], case.removed) for mask in at):
        raise Unavailable(f"his of seed {case.seed} removes other heads than were diagnosed; diagnose it again")
    canvas = style.new_figure(13.2, 6)
    widths: Any = {"width_ratios": (3, 6.2, 3)}
    panels = canvas.subplot_mosaic([["curve", "heat", "his"], ["curve", "heat", "ae"]], **widths)
    _curve(panels["curve"], his, case)
    _heat(panels["heat"], case)
    for name in ("his", "ae"):
        _histogram(panels[name], scores.values[name], case.removed, name.upper())
    beside: Any = {"loc": "lower right", "bbox_to_anchor": (1.02, 1), "borderaxespad": 0.2, "ncols": 2}
    panels["his"].legend(fontsize=8.5, handlelength=1, columnspacing=1, **beside)
    style.headline(canvas, f"What HIS removes: {heading(rows)}", _caption(his, case))
    return list(panels.values())


def _curve(axes: Axes, his: pd.DataFrame, case: Diagnosis) -> None:
    """Quality of every seed against the ratio; the diagnosed one strong, its steepest drop shaded."""
    color, marker = style.LOOKS["his"]
    for seed, run in his.groupby("seed"):
        run, here = run.sort_values("ratio"), seed == case.seed
        look = {"linewidth": 2.4, "marker": marker} if here else {"linewidth": 0.8, "alpha": 0.45}
        axes.plot(100 * run["ratio"], run["quality"], color=color, label=f"HIS, seed {seed}" if here else None, **look)
    change, step = _change(his[his["seed"] == case.seed], case)
    label = f"{percent(case.ratio_before)} to {percent(case.ratio)}:\n{change:+.1f} points"
    label = label.replace("-", "\N{MINUS SIGN}")
    axes.axvspan(100 * case.ratio_before, 100 * case.ratio, color="#F6D8C6", linewidth=0, zorder=0, label=label)
    axes.grid(axis="y")
    axes.legend(loc="lower left", fontsize=8.5)
    axes.set(xlabel="heads removed (%)", ylabel="quality (%)", title=step.capitalize())


def _change(run: pd.DataFrame, case: Diagnosis) -> tuple[float, str]:
    """Points of quality between the diagnosed ratios, and what the rows of that seed allow to call it."""
    run = run.sort_values("ratio")
    steps = run["quality"].diff().to_numpy()  # [ratios], from the ratio before
    here = np.isclose(run["ratio"], case.ratio) & np.isclose(run["ratio"].shift(), case.ratio_before)
    if not here.any() or np.isnan(change := float(steps[here][0])):
        raise Unavailable(
            f"his of seed {case.seed} has no quality at {percent(case.ratio_before)} and, next to it, at "
            f"{percent(case.ratio)}, which were diagnosed; diagnose it again"
        )
    return change, "steepest drop" if change < 0 and change <= np.nanmin(steps) else "diagnosed step"


def _heat(axes: Axes, case: Diagnosis) -> None:
    """The kept heads above the removed ones, in each block the most focused head first."""
    blocks = [_focused_first(case.attention[part]) for part in (~case.removed, case.removed)]
    gap = np.full((max(1, len(case.removed) // 36), len(case.tokens)), np.nan)
    rows = np.vstack([blocks[0], gap, blocks[1]])
    mesh = axes.pcolormesh(np.ma.masked_invalid(rows), norm=PowerNorm(0.5, 0, np.nanmax(rows)), cmap="viridis")
    axes.set(ylim=(len(rows), 0), title="Attention to each token")
    starts = (0, len(blocks[0]) + len(gap))
    names = [f"{word} ({len(block)} heads)" for word, block in zip(("kept", "removed"), blocks, strict=True)]
    centers = [start + len(block) / 2 for start, block in zip(starts, blocks, strict=True)]
    axes.set_yticks(centers, names, rotation=90, va="center")
    axes.set_xticks(np.arange(len(case.tokens)) + 0.5, case.tokens, rotation=90, fontsize=8)
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
    axes.hist([values[removed], values[~removed]], edges.tolist(), stacked=True, **PARTS)
    if logarithmic:
        axes.set_xscale("log")
        ticks = np.geomspace(values.min(), values.max(), 3)  # one decade or three: never more labels than fit
        axes.set_xticks(ticks, labels=[f"{tick:.1g}" for tick in ticks], minor=False)
        axes.minorticks_off()
    axes.set(title=name, ylabel="heads", xlabel=name + " (logarithmic)" * logarithmic)
    axes.grid(axis="y")


def _caption(his: pd.DataFrame, case: Diagnosis) -> str:
    step = _change(his[his["seed"] == case.seed], case)[1]
    return (
        f"{caption(his)}. Diagnosed: seed {case.seed} at {percent(case.ratio)} removed, the ratio after the {step}. "
        f"Example {case.example} of the report split: label {case.label}; the unpruned model says "
        f"{case.unpruned}, the pruned one {case.pruned}. Attention of the unpruned model, rows sum to 1, the most "
        "focused heads first. Thin lines: other draws."
    )
