"""Maps of all heads, site x head: scores, what is removed, and bars (figures 2c, 3, 7, 8 and 9 of the paper)."""

from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection, QuadMesh
from matplotlib.colors import ListedColormap, Normalize, PowerNorm
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import MaxNLocator

from analysis import style
from analysis.data.scores import Scores, load_scores
from analysis.errors import Unavailable
from analysis.registry import OF_TASK, figure
from analysis.text import choice
from analysis.text.captions import caption, heading, percent
from analysis.text.labels import ALPHA_SIGN

# criterion -> the array that is drawn, and which end of it goes first
MAPPED_ARRAYS = {"his": ("his", "lowest"), "ae": ("ae", "highest"), "hies": ("scores", "lowest")}
# What becomes of a head: removed by neither, by HIS alone, by HIES alone, by both.
FATES = ("neither", "only HIS", "only HIES", "both")
FATE_COLORS = ("#EFEFEF", style.LOOKS["his"][0], style.LOOKS["hies"][0], "#4D4D4D")
ELEVATION, AZIMUTH = 32, -57  # of the viewer, in degrees
BAR = 0.72  # width of a bar, of the unit between two heads
SITE_NOTE = "Site 0 is the first attention module"


@figure(
    "heatmaps",
    about="HIS, AE and HIES of every head, with the heads that each criterion removes greyed.",
    needs="rows and score files of his, ae or hies (of several alphas one for all ratios: per task, auto, nearest 0.5)",
    per=OF_TASK,
)
def draw_heatmaps(rows: pd.DataFrame, ratios: tuple[float, ...] = (0.1, 0.3, 0.5, 0.7)) -> list[Axes]:
    """Draws all heads in the first line, then one line a ratio; the lowest seed of one model and task."""
    rows = rows[rows["seed"] == rows.loc[rows["criterion"].isin(MAPPED_ARRAYS), "seed"].min()]
    runs = {name: run for name in MAPPED_ARRAYS if not (run := choice.run_of_one_alpha(rows, name)).empty}
    lines = [0.0] + [ratio for ratio in ratios if any(np.isclose(run["ratio"], ratio).any() for run in runs.values())]
    if len(lines) == 1:
        raise Unavailable(f"no rows of his, ae or hies at the ratios {', '.join(map(str, ratios))}")
    scores = {name: load_scores(run.iloc[0]) for name, run in runs.items()}
    runs = {name: run for name, run in runs.items() if MAPPED_ARRAYS[name][0] in scores[name].values}
    if not runs:
        raise Unavailable("the score files of his, ae and hies do not hold what it draws of them")
    sites, heads = scores[next(iter(runs))].there.shape
    height = float(np.clip(2.6 * sites / heads, 1.2, 2.6))  # inches of a map: cells about square, as a page allows
    canvas = style.new_figure(3.1 * len(runs) + 0.5, len(lines) * height + 1.6)
    grid = canvas.subplots(len(lines), len(runs), sharex=True, sharey=True, squeeze=False)
    for column, name in zip(grid.T, runs, strict=True):
        _column(column, name, runs[name], scores[name], lines)
    for axes, ratio in zip(grid[:, 0], lines, strict=True):
        axes.set_ylabel(f"{percent(ratio)} removed\nsite" if ratio else "all heads\nsite")
    text = f"{caption(rows)}. {SITE_NOTE}. Hatched grey: removed heads."
    if (alpha := choice.drawn_alpha(runs.get("hies", rows[:0]))) is not None:
        text += f" HIES: colours and removed heads are those of {ALPHA_SIGN} = {alpha:g}."
    style.headline(canvas, f"Scores and removed heads: {heading(rows)}", text)
    return list(grid.flat)


@figure(
    "figure3",
    about="Which heads HIS and HIES remove at 30, 40 and 50 %, one grid a ratio.",
    needs="rows and score files of his and hies with one seed in common, at the ratio 0.3, 0.4 or 0.5",
    per=OF_TASK,
)
def draw_figure3(rows: pd.DataFrame, ratios: tuple[float, ...] = (0.3, 0.4, 0.5)) -> list[Axes]:
    """Draws site x head for each ratio; the lowest seed that both criteria have."""
    his, hies = choice.common_runs(rows)
    common = [ratio for ratio in ratios if all(np.isclose(run["ratio"], ratio).any() for run in (his, hies))]
    if not common:
        raise Unavailable(f"HIS and HIES have no ratio in common of {', '.join(map(str, ratios))}")
    scores = load_scores(his.iloc[0])
    canvas = style.new_figure(3.2 * len(common) + 0.6, 3.0 * len(scores.sites) / max(scores.heads) + 2.3)
    panels = list(canvas.subplots(1, len(common), sharey=True, squeeze=False)[0])
    for axes, ratio in zip(panels, common, strict=True):
        _fates_panel(axes, scores, *(run[np.isclose(run["ratio"], ratio)].iloc[0] for run in (his, hies)))
    panels[0].set_ylabel("site")
    parts = [Patch(facecolor=color, edgecolor=style.MUTED, linewidth=0.4) for color in FATE_COLORS]
    canvas.legend(parts, FATES, loc="outside right center", title="removed by", alignment="left")
    text = f"{caption(pd.concat([his, hies]))}. {hies['curve'].iloc[0]}. {SITE_NOTE}."
    style.headline(canvas, f"Heads that HIS and HIES remove: {heading(rows)}", text)
    return panels


@figure(
    "figure8",
    about="HIS and HIES of every head as 3-D bars over site and head.",
    needs="rows and score files of his and hies with one seed in common",
    per=OF_TASK,
)
def draw_figure8(rows: pd.DataFrame) -> list[Axes]:
    """Draws HIS left, HIES right; the lowest seed that both criteria have."""
    runs = choice.common_runs(rows)
    canvas = style.new_figure(11, 5)
    panels = list(canvas.subplots(1, 2, subplot_kw={"projection": "3d"}))
    for axes, run, array in zip(panels, runs, ("his", "scores"), strict=True):
        scores = load_scores(run.iloc[0])
        if array not in scores.values:
            raise Unavailable(f"the score file of {run['run_id'].iloc[0]} has no {array}")
        _bars(axes, scores.rectangle(array))
        axes.set_title(run["curve"].iloc[0] + _drawn_at(run, ", "), loc="center", y=1.06)
    text = f"{caption(pd.concat(runs))}. {SITE_NOTE}. "
    text += "Colour repeats the height; the heads of the lowest bars go first."
    style.headline(canvas, f"Scores of the heads: {heading(rows)}", text)
    return panels


def _drawn_at(run: pd.DataFrame, before: str) -> str:
    """At which alpha the scores of a run are drawn; empty where alpha is fixed."""
    alpha = choice.drawn_alpha(run)
    return "" if alpha is None else f"{before}drawn at {ALPHA_SIGN} = {alpha:g}"


def _column(column: np.ndarray, criterion: str, run: pd.DataFrame, scores: Scores, lines: list[float]) -> None:
    """The maps of one criterion, one a ratio, with a colour bar below."""
    array, end = MAPPED_ARRAYS[criterion]
    values = scores.rectangle(array)
    # HIS spans orders of magnitude: on a linear scale a few heads would hide all others.
    norm = PowerNorm(0.5, 0, np.nanmax(values)) if array == "his" else Normalize(np.nanmin(values), np.nanmax(values))
    for axes, ratio in zip(column, lines, strict=True):
        mesh = _map(axes, values, norm=norm, cmap="viridis", linewidth=0.4)
        _grey(axes, run[np.isclose(run["ratio"], ratio)], scores, choice.drawn_alpha(run))
    column[0].set_title(f"{run['curve'].iloc[0]}\n{end} go first{_drawn_at(run, '; ')}", fontsize=9.5)
    column[-1].set_xlabel("head")
    bar = column[0].figure.colorbar(mesh, ax=list(column), location="bottom", aspect=28, shrink=0.9, pad=0.015)
    bar.outline.set_visible(False)
    ticks = [float(tick) for tick in norm.inverse(np.array([0, 0.5, 1]))]
    bar.set_ticks(ticks, labels=[f"{tick:.2g}" for tick in ticks])
    bar.set_label(f"{criterion.upper()}{' (square-root scale)' * (array == 'his')}")


def _map(axes: Axes, values: np.ndarray, **look: Any) -> QuadMesh:
    """Values [sites, heads] as cells, the first site at the top, as one reads."""
    mesh = axes.pcolormesh(np.ma.masked_invalid(values), edgecolors="white", **look)
    sites, heads = values.shape
    for axis, count in ((axes.xaxis, heads), (axes.yaxis, sites)):
        step = max(1, int(np.ceil(count / 6)))  # about six numbers, each in the middle of its cell
        axis.set_ticks(np.arange(0, count, step) + 0.5, labels=[str(i) for i in range(0, count, step)])
    axes.set(xlim=(0, heads), ylim=(sites, 0))
    style.plain_box(axes)
    return mesh


def _grey(axes: Axes, at_ratio: pd.DataFrame, scores: Scores, alpha: float | None) -> None:
    """Greys the removed heads, unless they were chosen with another alpha than the scores that are drawn."""
    others = set() if alpha is None else {*at_ratio["alpha_used"].dropna()} - {alpha}  # at ratio 0 there is none
    if at_ratio.empty or others:
        sites, heads = scores.there.shape
        why = f"removed with {ALPHA_SIGN} = {min(others):g}" if others else "no row at this ratio"
        axes.text(heads / 2, sites / 2, why, ha="center", va="center", backgroundcolor="white")
        return
    removed = np.argwhere(scores.removed(at_ratio["mask"].iloc[0]))
    cells = [Rectangle((float(head), float(site)), 1, 1) for site, head in removed]
    look: Any = {"facecolor": style.REMOVED, "edgecolor": "white", "hatchcolor": style.MUTED, "hatch": "////"}
    axes.add_collection(PatchCollection(cells, linewidth=0.4, **look))


def _fates_panel(axes: Axes, scores: Scores, his: pd.Series, hies: pd.Series) -> None:
    fate = scores.removed(his["mask"]) + 2.0 * scores.removed(hies["mask"])  # of each head its place in FATES
    fate[~scores.there] = np.nan
    _map(axes, fate, cmap=ListedColormap(FATE_COLORS), vmin=0, vmax=3, linewidth=1)
    alpha = hies.get("alpha_used")
    axes.set_title(f"{percent(his['ratio'])} removed", fontsize=10)
    used = "" if alpha is None or pd.isna(alpha) else f"HIES: {ALPHA_SIGN} = {alpha:g}"
    axes.set_title(used, loc="right", fontsize=8.5, fontweight="normal")
    counts = [f"{(fate == i).sum()} {FATES[i]}" for i in range(1, len(FATES))]
    axes.set_xlabel(f"head\n{', '.join(counts)}")


def _bars(axes: Any, values: np.ndarray) -> None:
    """Values [sites, heads] as bars."""
    sites, heads = values.shape
    norm = Normalize(min(0, np.nanmin(values)), np.nanmax(values))
    colors = mpl.colormaps["viridis"](norm(values))
    axes.view_init(elev=ELEVATION, azim=AZIMUTH)
    axes.computed_zorder = False  # matplotlib would order faces by their centres, which tall bars get wrong
    for place, (site, head) in enumerate(_back_to_front(np.argwhere(~np.isnan(values)))):
        corner, size = (head - BAR / 2, site - BAR / 2, 0), (BAR, BAR, values[site, head])
        axes.bar3d(*corner, *size, color=colors[site, head], edgecolor="white", linewidth=0.2, zorder=place)
    axes.set_box_aspect((heads, max(sites, heads * 0.6), heads * 0.55), zoom=1.15)
    for axis, count, name in ((axes.xaxis, heads, "head"), (axes.yaxis, sites, "site")):
        axis.set_ticks(range(0, count, max(1, int(np.ceil(count / 7)))))
        axis.set_label_text(name)
    axes.zaxis.set_major_locator(MaxNLocator(4))
    for axis in (axes.xaxis, axes.yaxis, axes.zaxis):
        axis.pane.set(facecolor="white", edgecolor=style.REMOVED)
        axis._axinfo["grid"].update(color="#E6E6E6", linewidth=0.6)  # matplotlib has no public way to these lines
    axes.tick_params(labelsize=8.5, pad=0)


def _back_to_front(places: np.ndarray) -> np.ndarray:
    """The (site, head) pairs, those farthest from the viewer first, so that nearer bars hide them."""
    angle = np.radians(AZIMUTH)
    nearness = places[:, 1] * np.cos(angle) + places[:, 0] * np.sin(angle)
    return places[np.argsort(nearness, kind="stable")]
