"""How figures look: one colour and marker a criterion everywhere, also for those who see no red or no green."""

import textwrap
from collections.abc import Iterable
from math import ceil
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.colors as colors
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from analysis.text import choice
from analysis.text.labels import ordered_curves, without_shared

# Every two colours of this file lie at least 15 apart (CIE76), also for those who see no red or no green, and each has
# a contrast of at least 3 with white; the markers carry the same distinction in print without colour.
LOOKS = {
    "hies": ("#D55E00", "o"),
    "his": ("#0072B2", "s"),
    "ae": ("#0A743E", "^"),
    "ad": ("#C07AB3", "v"),
    "l2": ("#B88947", "D"),
    "random": ("#4B525F", "X"),
    "output_norm": ("#2999E7", "P"),
    "fisher": ("#332288", "*"),
    "flap": ("#1414F0", (8, 1, 0)),
    "greedy": ("#000000", ">"),
    "slicegpt": ("#8E9769", "<"),
    "llm_pruner_block": ("#78083C", "h"),
    "llm_pruner_channel": ("#287D64", "p"),
}
# Of criteria that are not in LOOKS, and of further curves of one that is.
SPARE = (("#722C00", "d"), ("#794DCE", "H"), ("#BC2434", "8"))
REST = "#949494"  # of the lines that are not highlighted
CROWDED, HIGHLIGHTED = 8, 5  # of more lines than the first number so many are highlighted
# Which are: after HIES, HIS and criteria that are not in LOOKS, since those are somebody's own.
PROMINENT = ("slicegpt", "random", "ae", "llm_pruner_block", "ad", "l2")
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (5, 1.5, 1.5, 1.5)))
# One strong line lies below the thin ones: where curves coincide, all of them stay visible.
STRONG = {"linewidth": 3.6, "markersize": 8.5, "zorder": 3}
THIN = {"color": REST, "linewidth": 1, "markersize": 6.5, "zorder": 2.5}
INK, MUTED, REMOVED = "#222222", "#666666", "#D9D9D9"
LUMINANCE = (0.2126, 0.7152, 0.0722)  # of red, green and blue in linear light
FIGURE_WIDTH = 10.4  # inches of a figure of many panels
CHARACTERS_PER_LABEL = 26
CHARACTERS_PER_INCH = 15  # of the caption, for wrapping

RC = mpl.rc_params_from_file(Path(__file__).with_name("house.mplstyle"), use_default_template=False)


def new_figure(width: float, height: float) -> Figure:
    """Returns an empty figure, laid out so that nothing overlaps; it belongs to no window and no global state."""
    return Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(h_pad=0.09, w_pad=0.06))


def small_multiples(
    count: int, most: int, height: float, lines: int = 1, width: float = FIGURE_WIDTH
) -> tuple[Figure, list[list[Axes]]]:
    """Returns a figure `width` inches wide, and its `lines` blocks of `count` panels `height` inches each.

    At most `most` stand in a row; the last of a block fills its row, so that no place is empty.
    """
    rows = ceil(count / most)
    columns = ceil(count / rows)
    canvas = new_figure(width, lines * rows * height + 1.2)
    grid = canvas.add_gridspec(lines * rows, columns)

    def panel(block: int, place: int) -> Axes:
        row, column = divmod(place, columns)
        return canvas.add_subplot(grid[block * rows + row, column : columns if place == count - 1 else column + 1])

    return canvas, [[panel(block, place) for place in range(count)] for block in range(lines)]


def outer_labels(panels: list[Axes], below: str, left: str) -> None:
    """Labels those panels of a block that stand at its left edge and in its last row."""
    places = [axes.get_subplotspec() for axes in panels]
    for axes, place in zip(panels, places, strict=True):
        assert place is not None and places[-1] is not None
        if place.colspan.start == 0:
            axes.set_ylabel(left)
        if place.rowspan.start == places[-1].rowspan.start:
            axes.set_xlabel(below)


def headline(figure: Figure, title: str, caption: str) -> None:
    """Puts a title above and the caption below, both flush left, wrapped to the width of the figure."""
    width = int(figure.get_figwidth() * CHARACTERS_PER_INCH)
    figure.suptitle(title, x=0.01, ha="left", fontsize=12.5, fontweight="bold")
    figure.supxlabel(textwrap.fill(caption, width), x=0.01, ha="left", fontsize=8.5, color=MUTED)


def legend_beside(canvas: Figure, panels: Iterable[Axes], title: str = "", **size: Any) -> None:
    """Puts one legend of all panels beside them, each name once, what is not highlighted last.

    What all curves have in common is said above it, unless it has a title.
    """
    pairs = (pair for axes in panels for pair in zip(*axes.get_legend_handles_labels(), strict=True))
    named = {name: handle for handle, name in pairs}
    named = dict(sorted(named.items(), key=lambda item: getattr(item[1], "get_color", str)() == REST))
    names, shared = without_shared(list(named))
    title = wrapped(title or (f"all: {', '.join(shared)}" if shared else ""))
    texts = [wrapped(name) for name in names]
    canvas.legend(list(named.values()), texts, loc="outside right center", title=title, alignment="left", **size)


def wrapped(curve: str) -> str:
    """Returns the name of a curve in lines that a legend or an axis has room for."""
    return textwrap.fill(curve, CHARACTERS_PER_LABEL)


def plain_box(axes: Axes) -> None:
    """Removes frame and tick marks, as for a matrix or a heat map."""
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)


def axis_of_sizes(axes: Axes, sizes: Iterable[float]) -> None:
    """Gives the sizes of calibration sets an axis on which twice as many are one step."""
    axes.set_xscale("log", base=2)
    ticks = sorted({*sizes})
    axes.set_xticks(ticks, [f"{size:,.0f}" for size in ticks])
    axes.minorticks_off()
    axes.grid(axis="y")


def looks(rows: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Returns the line style of every curve: marker of its criterion, dash of its place there, and a colour of its own.

    The first curve of a criterion has the criterion's colour, and where there are many curves a few have one.
    """
    first = rows.drop_duplicates("curve").set_index("curve")["criterion"].to_dict()
    order = ordered_curves(rows)
    unknown = sorted({*first.values()} - {*LOOKS})
    table = {**LOOKS, **{name: SPARE[i % len(SPARE)] for i, name in enumerate(unknown)}}
    prominent = _prominent(rows, order)
    colored = prominent[:HIGHLIGHTED] if len(order) > CROWDED else prominent
    free = [color for color, _ in (*SPARE, *LOOKS.values()) if color not in {table[name][0] for name in first.values()}]
    styles: dict[str, dict[str, Any]] = {}
    for curve in prominent:
        color, marker = table[first[curve]]
        family = [other for other in prominent if first[other] == first[curve]]
        look = {"color": color, "marker": marker, "linestyle": DASHES[family.index(curve) % len(DASHES)], "zorder": 4}
        if curve not in colored:
            look |= {**THIN, "linestyle": DASHES[(order.index(family[0]) + family.index(curve)) % len(DASHES)]}
        elif any(other["color"] == color for other in styles.values()):
            look |= {"color": free.pop(0) if free else REST}
        styles[curve] = look
    if (strong := choice.plainest(rows, "hies")) is not None:
        styles[strong] |= STRONG
    return {curve: styles[curve] for curve in order}


def rest_note(rows: pd.DataFrame) -> str:
    """Returns a sentence on the lines that are not highlighted, for a caption; empty if all are."""
    return " Grey: further curves, without a band." if rows["curve"].nunique() > CROWDED else ""


def _prominent(rows: pd.DataFrame, order: list[str]) -> list[str]:
    """The curves, those that are highlighted first: one of each criterion, then the others."""
    criteria = list(rows["criterion"].unique())
    own = sorted({*criteria} - {*LOOKS})
    ranked = [name for name in dict.fromkeys(("hies", "his", *own, *PROMINENT, *LOOKS)) if name in criteria]
    plainest = [choice.plainest(rows, name) for name in ranked]
    return list(dict.fromkeys([*(curve for curve in plainest if curve is not None), *order]))


def smaller(looks: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Returns the same styles for small panels."""
    sizes = {"linewidth": RC["lines.linewidth"], "markersize": RC["lines.markersize"]}
    return {curve: {**look, **{k: 0.75 * look.get(k, v) for k, v in sizes.items()}} for curve, look in looks.items()}


def ink_on(background: Any) -> str:
    """Returns the colour of text, dark or white, that has the larger contrast with a background."""
    channels = np.array(colors.to_rgb(background))
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return "white" if linear @ LUMINANCE < 0.21 else INK  # there both have a contrast of about 4
