"""How figures look: one colour and marker per criterion everywhere, safe for colour-blind readers."""

import textwrap
from collections.abc import Iterable
from math import ceil
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.colors as colors
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from analysis.text import choice
from analysis.text.labels import ordered_curves

# Colours of Okabe and Ito; the markers carry the same distinction in print without colour.
LOOKS = {
    "hies": ("#D55E00", "o"),
    "his": ("#0072B2", "s"),
    "ae": ("#009E73", "^"),
    "ad": ("#CC79A7", "v"),
    "l2": ("#E69F00", "D"),
    "random": ("#7F7F7F", "X"),
    "output_norm": ("#56B4E9", "P"),
    "fisher": ("#332288", "*"),
    "flap": ("#117733", (8, 1, 0)),
    "greedy": ("#000000", ">"),
    "slicegpt": ("#999933", "<"),
    "llm_pruner_block": ("#882255", "h"),
    "llm_pruner_channel": ("#44AA99", "p"),
}
SPARE = (("#B2182B", "d"), ("#5E3C99", "H"), ("#8C510A", "8"), ("#4D4D4D", "|"))
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (5, 1.5, 1.5, 1.5)))
# Shade, marker and dash of HIES by the way its alpha was chosen; those chosen on the reported split are the palest.
ALPHA_LOOKS: dict[str, tuple[str, Any, Any]] = {
    "per_ratio": ("#D55E00", "o", DASHES[0]),
    "per_task": ("#E89A5B", (4, 1, 0), DASHES[2]),
    "auto": ("#7A3300", (4, 1, 45), DASHES[1]),
    "per_ratio_on_report": ("#F0BE96", (3, 1, 0), DASHES[3]),
    "per_task_on_report": ("#F0BE96", (5, 1, 0), DASHES[2]),
}
COMBINED = "with entropy"  # in the place of how alpha was chosen
OTHER_ALPHA = ("#A65A2A", (6, 1, 0), DASHES[3])
# One strong line lies below the thin ones: where curves coincide, all of them stay visible.
STRONG = {"linewidth": 3.6, "markersize": 8.5, "zorder": 3}
INK, MUTED, REMOVED = "#222222", "#666666", "#D9D9D9"
FIGURE_WIDTH = 10.4  # inches of a figure of many panels
CHARACTERS_PER_LABEL = 26
CHARACTERS_PER_INCH = 15  # of the caption, for wrapping

RC = mpl.rc_params_from_file(Path(__file__).with_name("house.mplstyle"), use_default_template=False)


def new_figure(width: float, height: float) -> Figure:
    """Returns an empty figure, laid out so that nothing overlaps; it belongs to no window and no global state."""
    return Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(h_pad=0.09, w_pad=0.06))


def small_multiples(
    count: int, columns: int, height: float, lines: int = 1, width: float = FIGURE_WIDTH
) -> tuple[Figure, list[list[Axes]]]:
    """Returns a figure `width` inches wide, and its `lines` blocks of `count` panels `height` inches each."""
    rows = ceil(count / columns)
    canvas = new_figure(width, lines * rows * height + 1.2)
    grid = canvas.subplots(lines * rows, min(columns, count), squeeze=False)
    blocks = [list(grid[i * rows : (i + 1) * rows].flat) for i in range(lines)]
    for block in blocks:
        for unused in block[count:]:
            unused.set_axis_off()
    return canvas, [block[:count] for block in blocks]


def outer_labels(panels: list[Axes], columns: int, below: str, left: str) -> None:
    """Labels the panels at the left edge, and of each column the lowest."""
    for axes in panels[::columns]:
        axes.set_ylabel(left)
    for axes in panels[-columns:]:
        axes.set_xlabel(below)


def headline(figure: Figure, title: str, caption: str) -> None:
    """Puts a title above and the caption below, both flush left, wrapped to the width of the figure."""
    width = int(figure.get_figwidth() * CHARACTERS_PER_INCH)
    figure.suptitle(title, x=0.01, ha="left", fontsize=12.5, fontweight="bold")
    figure.supxlabel(textwrap.fill(caption, width), x=0.01, ha="left", fontsize=8.5, color=MUTED)


def legend_of(panels: Iterable[Axes]) -> tuple[list[Any], list[str]]:
    """Returns the handles and the wrapped names of a legend of all panels, each name once."""
    pairs = (pair for axes in panels for pair in zip(*axes.get_legend_handles_labels(), strict=True))
    named = {name: handle for handle, name in pairs}
    return list(named.values()), [wrapped(name) for name in named]


def legend_beside(canvas: Figure, panels: Iterable[Axes], **size: Any) -> None:
    """Puts the legend of the panels beside them."""
    canvas.legend(*legend_of(panels), loc="outside right center", **size)


def wrapped(curve: str) -> str:
    """Returns the name of a curve in lines that a legend or an axis has room for."""
    return textwrap.fill(curve, CHARACTERS_PER_LABEL)


def plain_box(axes: Axes) -> None:
    """Removes frame and tick marks, as for a matrix or a heat map."""
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)


def looks(rows: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Returns the line style of every curve: colour and marker of its criterion, shade and dash of its knobs.

    HIES with a chosen alpha has a shade, a dash and a marker for each way to choose it, whatever else is drawn; HIES
    of another importance is a dashed line in the colour of that.
    """
    curves = {row["curve"]: row for row in rows.drop_duplicates("curve").to_dict("records")}
    unknown = sorted({row["criterion"] for row in curves.values()} - set(LOOKS))
    table = {**LOOKS, **{name: SPARE[i % len(SPARE)] for i, name in enumerate(unknown)}}
    families: dict[tuple[str, str | None], list[str]] = {}
    order = ordered_curves(rows)
    for curve in order:
        row = curves[curve]
        mixture = row.get("importance") in LOOKS
        family_key = (row["importance"], COMBINED) if mixture else (row["criterion"], choice.word(row))
        families.setdefault(family_key, []).append(curve)
    variants = sum(criterion == "hies" for criterion, _ in families)
    styles: dict[str, dict[str, Any]] = {}
    for (criterion, word), family in families.items():
        if word == COMBINED:
            styles |= _shades(family, *table[criterion], DASHES[1])
        elif word is not None:
            styles |= _shades(family, *ALPHA_LOOKS.get(word, OTHER_ALPHA))
        else:  # beside a variant, a fixed alpha leaves the full colour to it
            styles |= _shades(family, *table[criterion], "-", crowded=criterion == "hies" and variants > 1)
        if criterion == "hies" and len(family) == 1 and (variants == 1 or word == "per_ratio"):
            styles[family[0]] |= STRONG
    return {curve: styles[curve] for curve in order}


def _shades(family: list[str], color: str, marker: Any, dash: Any, crowded: bool = False) -> dict[str, dict[str, Any]]:
    """Curves that differ in a knob alone: the last has the full colour, those before it more and more white."""
    last = len(family) - 1 + crowded
    dashes = [dash, *(other for other in DASHES if other != dash)]
    return {
        curve: {
            "color": mixed(color, 0.65 * (1 - i / last) if last else 0.0),
            "marker": marker,
            "linestyle": dashes[(i + crowded) % len(dashes)],
            "zorder": 4,
            **({"markersize": 8.0} if isinstance(marker, tuple) else {}),  # a star fills little of its size
        }
        for i, curve in enumerate(family)
    }


def smaller(looks: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Returns the same styles for small panels."""
    sizes = {"linewidth": RC["lines.linewidth"], "markersize": RC["lines.markersize"]}
    return {curve: {**look, **{k: 0.75 * look.get(k, v) for k, v in sizes.items()}} for curve, look in looks.items()}


def mixed(color: str, share: float) -> tuple[float, ...]:
    """Returns a colour with this share of white."""
    return tuple(share + (1 - share) * channel for channel in colors.to_rgb(color))
