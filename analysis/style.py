"""How figures look: one colour and marker per criterion everywhere, safe for colour-blind readers."""

import textwrap
from typing import Any

import matplotlib.colors as colors
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from analysis.labels import ordered_curves

# Colours of Okabe and Ito; the markers carry the same distinction in print without colour.
LOOKS = {
    "hies": ("#D55E00", "o"),
    "his": ("#0072B2", "s"),
    "ae": ("#009E73", "^"),
    "ad": ("#CC79A7", "v"),
    "l2": ("#E69F00", "D"),
    "random": ("#7F7F7F", "X"),
}
SPARE = (("#56B4E9", "P"), ("#332288", "*"), ("#882255", "h"), ("#44AA99", "p"), ("#999933", "<"), ("#000000", ">"))
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (5, 1.5, 1.5, 1.5)))
INK, MUTED, REMOVED = "#222222", "#666666", "#D9D9D9"
CHARACTERS_PER_INCH = 15  # of the caption, for wrapping

RC: Any = {  # the names of matplotlib's own settings
    "font.family": "DejaVu Sans",  # ships with matplotlib: the same glyphs on every machine
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.8,
    "hatch.linewidth": 0.5,
    "legend.frameon": False,
    "lines.linewidth": 1.5,
    "lines.markersize": 5.5,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "figure.dpi": 100,
    "savefig.dpi": 200,
    "pdf.fonttype": 42,  # TrueType: text stays text for publishers and editors
}


def new_figure(width: float, height: float) -> Figure:
    """An empty figure in inches, laid out so that nothing overlaps; it belongs to no window and no global state."""
    return Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(h_pad=0.09, w_pad=0.06))


def headline(figure: Figure, title: str, caption: str) -> None:
    """A title above and the caption below, both flush left, wrapped to the width of the figure."""
    width = int(figure.get_figwidth() * CHARACTERS_PER_INCH)
    figure.suptitle(title, x=0.01, ha="left", fontsize=12.5, fontweight="bold")
    figure.supxlabel(textwrap.fill(caption, width), x=0.01, ha="left", fontsize=8.5, color=MUTED)


def plain_box(axes: Axes) -> None:
    """A matrix or heat map: no frame, no tick marks."""
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)


def looks(rows: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """The line style of every curve: colour and marker of its criterion, shade and dash of its knobs."""
    curves = ordered_curves(rows)
    criterion_of = dict(zip(rows["curve"], rows["criterion"], strict=True))
    unknown = sorted(set(criterion_of.values()) - set(LOOKS))
    table = {**LOOKS, **{name: SPARE[i % len(SPARE)] for i, name in enumerate(unknown)}}
    styles = {}
    for curve in curves:
        criterion = criterion_of[curve]
        family = [other for other in curves if criterion_of[other] == criterion]
        styles[curve] = _look(*table[criterion], criterion == "hies", family.index(curve), len(family))
    return styles


def _look(color: str, marker: str, strong: bool, index: int, count: int) -> dict[str, Any]:
    share = 0.0 if count == 1 else 0.65 * (1 - index / (count - 1))  # share of white: the last one is the full colour
    shade = tuple(share + (1 - share) * channel for channel in colors.to_rgb(color))
    # One strong line lies below the thin ones: where curves coincide, all of them stay visible.
    line = {"linewidth": 3.6, "markersize": 8.5, "zorder": 3} if strong and count == 1 else {"zorder": 4}
    return {"color": shade, "marker": marker, "linestyle": DASHES[index % len(DASHES)], **line}
