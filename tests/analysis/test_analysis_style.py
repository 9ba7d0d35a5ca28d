"""Figures can be read: also by those who see no red or no green, with enough contrast, and without an empty place."""

from itertools import combinations, product
from pathlib import Path

import matplotlib as mpl
import matplotlib.colors as colors
import numpy as np
import pandas as pd
import pytest
from analysis_runs import hies, write_run
from matplotlib.text import Text
from shown import caption_of, lines

from analysis import load, style
from analysis.figures import agreement, alphas, curves, methods, tasks
from analysis.figures.efficiency import COST_LOOKS
from analysis.text.labels import metric_name, model_name, task_name, without_shared

# Machado, Oliveira and Fernandes (2009), severity 1.0, on linear red, green and blue.
PROTANOPIA = [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
DEUTERANOPIA = [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
TO_XYZ = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
LEAST_DISTANCE, LEAST_CONTRAST = 15, 3


def linear(color) -> np.ndarray:
    encoded = np.array(colors.to_rgb(color))
    return np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)


def lab(light: np.ndarray) -> np.ndarray:
    share = np.array(TO_XYZ) @ light.clip(0, 1) / np.sum(TO_XYZ, axis=1)  # of the white point D65
    x, y, z = np.where(share > 216 / 24389, np.cbrt(share), (24389 / 27 * share + 16) / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def distance(one, other) -> float:
    """CIE76, the smallest of what those see who see all colours, no red, or no green."""
    seen = [np.eye(3), np.array(PROTANOPIA), np.array(DEUTERANOPIA)]
    return min(np.linalg.norm(lab(eye @ linear(one)) - lab(eye @ linear(other))) for eye in seen)


def contrast(one, other="white") -> float:
    """WCAG 2."""
    light, dark = sorted((TO_XYZ[1] @ linear(color) for color in (one, other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def check_apart(drawn) -> None:
    names = sorted({colors.to_hex(color) for color in drawn})
    near = [(a, b, distance(a, b)) for a, b in combinations(names, 2) if distance(a, b) < LEAST_DISTANCE]
    assert not near
    assert not [(name, contrast(name)) for name in names if contrast(name) < LEAST_CONTRAST]


@pytest.fixture
def many(tmp_path: Path) -> pd.DataFrame:
    """Fourteen curves, one of them of a criterion that nobody knows."""
    for criterion in [*[*style.LOOKS][:12], "my_own"]:
        knobs = {"alpha": "per_ratio"} if criterion == "hies" else {}
        write_run(tmp_path / "exp", criterion, parameters=5, flops=5, **knobs)
    write_run(tmp_path / "exp", "ae", entropy="gini")
    return load(tmp_path)


def test_the_distance_and_the_contrast_are_the_published_ones() -> None:
    np.testing.assert_allclose(lab(linear("#FF0000")), [53.24, 80.09, 67.20], atol=0.02)
    assert contrast("black") == pytest.approx(21) and contrast("#767676") == pytest.approx(4.54, abs=0.01)
    assert distance("#D55E00", "#999933") < LEAST_DISTANCE  # who sees no green takes one for the other


def test_all_colours_of_lines_are_apart_for_everybody() -> None:
    palette = [color for color, _ in (*style.LOOKS.values(), *style.SPARE)]
    check_apart([*palette, style.REST])
    assert len({*palette}) == len(palette)
    check_apart([look["color"] for look in COST_LOOKS.values()])
    check_apart([look["color"] for look in alphas.RANK_LOOKS.values()])
    check_apart([look["color"] for look in alphas._looks([0.1, 0.2, 0.3, 0.4, 0.5]).values()])


def test_of_fourteen_lines_five_are_highlighted_ones_own_among_them(many: pd.DataFrame) -> None:
    axes = methods.draw_methods(many)[0]
    drawn = {one.get_label(): one.get_color() for one in axes.get_lines() if one.get_label() in set(many["curve"])}
    assert len(drawn) == 14
    highlighted = {curve: color for curve, color in drawn.items() if color != style.REST}
    assert highlighted.keys() == {
        "HIES (\N{GREEK SMALL LETTER ALPHA} per ratio)",
        "HIS",
        "my_own",
        "SliceGPT",
        "Random",
    }
    check_apart(highlighted.values())
    looks = style.looks(many)
    rest = {(str(look["marker"]), str(look["linestyle"])) for curve, look in looks.items() if curve not in highlighted}
    assert len(rest) == 9  # grey lines are told apart by these
    assert "Grey: further curves, without a band." in caption_of(axes)
    (legend,) = axes.get_figure(root=True).legends
    assert {one.get_text() for one in legend.get_texts()[:6]} == {*highlighted, "unpruned"}


def test_few_lines_all_have_a_colour_also_several_of_one_criterion(many: pd.DataFrame) -> None:
    few = many[many["criterion"].isin(["hies", "his", "ae", "my_own", "fisher", "l2", "random"])]
    looks = style.looks(few)
    assert len(looks) == len({look["color"] for look in looks.values()}) == style.CROWDED
    check_apart([look["color"] for look in looks.values()])
    assert "Grey" not in caption_of(curves.draw_curves(few)[0])


def test_every_text_and_every_line_has_enough_contrast(tmp_path: Path, many: pd.DataFrame) -> None:
    for task, alpha in product(("rte", "cola"), (0.1, 0.5, 0.9)):
        hies(tmp_path / "own" / "exp", alpha, task=task, ratios=(0.0, 0.3))
    rows = load(tmp_path / "own")
    for axes in (methods.draw_methods(many)[0], tasks.draw_all_tasks(rows)[0], alphas.draw_figure12(rows)[0]):
        figure = axes.get_figure(root=True)
        shown = [one for one in figure.findobj(Text) if one.get_visible() and one.get_text()]
        assert shown and not [one.get_text() for one in shown if contrast(one.get_color()) < LEAST_CONTRAST]
        plotted = [one for panel in figure.axes for one in panel.get_lines()]
        assert not [one.get_label() for one in plotted if contrast(one.get_color()) < LEAST_CONTRAST]


@pytest.mark.parametrize("name", ["Blues", "RdBu_r", "viridis"])
def test_numbers_on_cells_have_enough_contrast(name: str) -> None:
    for share in np.linspace(0, 1, 23):
        cell = mpl.colormaps[name](share)
        assert contrast(style.ink_on(cell), cell[:3]) > LEAST_CONTRAST


def test_a_missing_number_of_a_matrix_can_be_read(tmp_path: Path) -> None:
    write_run(tmp_path / "exp", "his", ratios=(0.0, 0.5))
    write_run(tmp_path / "exp", "l2", ratios=(0.0, 0.5), scores=[1, 1, 1, 1, 1])
    texts = agreement.draw_agreement(load(tmp_path))[-1].texts
    assert [contrast(one.get_color()) > 4 for one in texts if one.get_text() == "n/a"] == [True] * 3


@pytest.mark.parametrize("count", [1, 5, 6, 9, 13])
def test_no_place_of_a_figure_is_empty(count: int) -> None:
    _, blocks = style.small_multiples(count, 5, height=1, lines=2)
    taken: set[tuple[int, int]] = set()
    for axes in [axes for block in blocks for axes in block]:
        spec = axes.get_subplotspec()
        cells = {(row, column) for row in spec.rowspan for column in spec.colspan}
        assert not taken & cells
        taken |= cells
    rows, columns = spec.get_gridspec().get_geometry()
    assert len(taken) == rows * columns and columns <= 5 and [len(block) for block in blocks] == [count] * 2


def test_what_all_curves_have_in_common_is_said_once(tmp_path: Path) -> None:
    names = ["HIES (a = 0.9, scope = layer), 50 examples", "HIS (scope = layer), 50 examples", "unpruned", "HIS, paper"]
    assert without_shared(names) == (
        ["HIES (a = 0.9)", "HIS", "unpruned", "HIS, paper"],
        ["scope = layer", "50 examples"],
    )
    assert without_shared(["HIES (a = 0.9, b = 1)", "HIES (a = 0.95, b = 1)"])[0] == [
        "HIES (a = 0.9)",
        "HIES (a = 0.95)",
    ]
    assert without_shared(["HIS (scope = layer)", "unpruned"]) == (["HIS (scope = layer)", "unpruned"], [])
    assert without_shared([]) == ([], []) and without_shared(["FLOPs", "latency"])[1] == []
    for criterion in ("his", "ae"):
        write_run(tmp_path / "exp", criterion, scope="layer")
    axes = curves.draw_curves(load(tmp_path))[0]
    (legend,) = axes.get_figure(root=True).legends
    assert {one.get_text() for one in legend.get_texts()} == {"HIS", "AE", "unpruned"}
    assert legend.get_title().get_text() == "all: scope = layer" and "HIS (scope = layer)" in lines(axes)


def test_models_tasks_and_metrics_have_names_for_people(tmp_path: Path) -> None:
    write_run(tmp_path / "exp", "his", model="bert_base", task="apidocs", metric="exact_match")
    axes = curves.draw_curves(load(tmp_path))[0]
    assert axes.get_figure(root=True).get_suptitle() == "BERT-base on API docs"
    assert axes.get_title(loc="left") == "Quality: exact match" and "model BERT-base" in caption_of(axes)
    assert [model_name("org/mine"), task_name("mine"), metric_name("f1")] == ["org/mine", "mine", "F1"]
