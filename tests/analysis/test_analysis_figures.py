from pathlib import Path

import numpy as np
import pytest
from analysis_runs import write_grid, write_run
from matplotlib.collections import PatchCollection, QuadMesh

from analysis import load, style
from analysis.errors import Unavailable
from analysis.figures import agreement, curves, heads

ALPHA = "\N{GREEK SMALL LETTER ALPHA}"


def line(axes, label: str):
    return next(one for one in axes.get_lines() if one.get_label() == label)


def test_curves_draws_means_and_bands_of_both_measures(tmp_path: Path) -> None:
    write_run(tmp_path / "exp", "his", seed=0, quality=(90, 60), stability=(100, 50))
    write_run(tmp_path / "exp", "his", seed=1, quality=(90, 80), stability=(100, 70))
    quality, stability = curves.draw_curves(load(tmp_path))
    np.testing.assert_allclose(line(quality, "HIS").get_xydata(), [[0, 90], [40, 70]])
    np.testing.assert_allclose(line(stability, "HIS").get_xydata(), [[0, 100], [40, 60]])
    np.testing.assert_allclose(line(quality, "unpruned").get_ydata(), [90, 90])
    band = quality.collections[0].get_paths()[0].vertices
    assert {(40.0, 60.0), (40.0, 80.0)} <= {tuple(point) for point in band}
    assert (quality.get_xlabel(), quality.get_ylabel()) == ("heads removed (%)", "quality (%)")


def test_curves_of_models_that_start_apart_have_no_common_level(tmp_path: Path) -> None:
    write_run(tmp_path / "exp", "his", quality=(90, 60), data="a")
    write_run(tmp_path / "exp", "his", quality=(50, 40), data="b", name="other")
    quality, stability = curves.draw_curves(load(tmp_path))
    assert "unpruned" not in [one.get_label() for one in quality.get_lines()]
    assert "unpruned" in [one.get_label() for one in stability.get_lines()]  # 100 % of either


def test_curves_draws_nothing_where_quality_is_undefined_and_hollow_where_partly(tmp_path: Path) -> None:
    write_run(tmp_path / "exp", "his", seed=0, quality=(90, None, None), ratios=(0.0, 0.2, 0.4))
    write_run(tmp_path / "exp", "his", seed=1, quality=(90, 80, None), ratios=(0.0, 0.2, 0.4))
    quality, _ = curves.draw_curves(load(tmp_path))
    np.testing.assert_allclose(line(quality, "HIS").get_ydata(), [90, 80, np.nan])
    hollow = [one for one in quality.get_lines() if one.get_markerfacecolor() == "white"]
    np.testing.assert_allclose(np.concatenate([one.get_xydata() for one in hollow]), [[20, 80]])
    assert "undefined" in quality.figure.get_supxlabel()


def test_caption_tells_the_protocol_and_what_is_missing(tmp_path: Path) -> None:
    write_grid(tmp_path / "exp", ("his", 0), ("ae", 0))
    write_run(tmp_path / "exp", "his", seed=0)
    text = curves.draw_curves(load(tmp_path))[0].figure.get_supxlabel().replace("\n", " ")
    for part in ("model tiny, task toy, 50 examples, 1 seed (0), calibration size 32", "incomplete: 1 of 2 jobs"):
        assert part in text
    assert "bootstrap" not in text  # one seed has no interval


def test_a_criterion_looks_the_same_whatever_else_is_drawn(tmp_path: Path) -> None:
    write_run(tmp_path / "exp", "ae")
    write_run(tmp_path / "exp", "hies", alpha=0.5)
    write_run(tmp_path / "exp", "stranger")
    known = [*style.LOOKS.values(), *style.SPARE]
    assert len({color for color, _ in known}) == len({marker for _, marker in known}) == len(known)
    rows = load(tmp_path)
    alone = style.looks(rows[rows["criterion"] == "hies"])
    looks = style.looks(rows)
    assert looks[f"HIES ({ALPHA} = 0.5)"] == alone[f"HIES ({ALPHA} = 0.5)"]
    assert len({(look["color"], look["marker"]) for look in looks.values()}) == 3


def test_several_alphas_are_told_apart(tmp_path: Path) -> None:
    for alpha in (0.1, 0.5, 0.9):
        write_run(tmp_path / "exp", "hies", alpha=alpha)
    looks = style.looks(load(tmp_path)).values()
    assert len({look["color"] for look in looks}) == 3 and len({look["marker"] for look in looks}) == 1


def cells(axes) -> set[tuple[int, int]]:
    """The greyed (site, head) of a heat map."""
    patches = [one for one in axes.collections if isinstance(one, PatchCollection)]
    corners = [path.vertices.min(axis=0) for one in patches for path in one.get_paths()]
    return {(round(y), round(x)) for x, y in corners}


def test_heatmaps_grey_exactly_the_mask_and_leave_ragged_sites_blank(tmp_path: Path) -> None:
    masks = ({}, {"second": [2]}, {"first": [1], "second": [0, 2]})
    ratios, quality = (0.0, 0.1, 0.5), (90, 80, 70)
    options = {"masks": masks, "ratios": ratios, "quality": quality}
    write_run(tmp_path / "exp", "his", seed=1, scores=[9, 9, 9, 9, 9], **options)
    write_run(tmp_path / "exp", "his", seed=0, scores=[1, 2, 3, 4, 5], **options)
    axes = heads.draw_heatmaps(load(tmp_path))
    assert [cells(one) for one in axes] == [set(), {(1, 2)}, {(0, 1), (1, 0), (1, 2)}]
    mesh = next(one for one in axes[0].collections if isinstance(one, QuadMesh))
    np.testing.assert_array_equal(mesh.get_array().reshape(2, 3).filled(-1), [[1, 2, -1], [3, 4, 5]])
    assert axes[1].get_ylabel() == "10 % removed\nsite" and axes[2].get_xlabel() == "head"


def test_heatmaps_shows_raw_entropy_for_ae_and_the_alpha_nearest_one_half(tmp_path: Path) -> None:
    for alpha in (0.1, 0.4, 0.9):
        write_run(tmp_path / "exp", "hies", alpha=alpha, ratios=(0.0, 0.5))
    write_run(tmp_path / "exp", "ae", ratios=(0.0, 0.5), scores=[0, -1, -2, -3, -4], arrays={"ae": np.arange(5.0)})
    axes = heads.draw_heatmaps(load(tmp_path))
    assert [one.get_title(loc="left").split("\n")[0] for one in axes[:2]] == ["AE", f"HIES ({ALPHA} = 0.4)"]
    mesh = next(one for one in axes[0].collections if isinstance(one, QuadMesh))
    np.testing.assert_array_equal(mesh.get_array().compressed(), [0, 1, 2, 3, 4])


def test_heatmaps_name_a_ratio_that_only_one_criterion_has(tmp_path: Path) -> None:
    write_run(tmp_path / "exp", "his", ratios=(0.0, 0.5))
    write_run(tmp_path / "exp", "hies", alpha=0.5, ratios=(0.0, 0.7))
    axes = heads.draw_heatmaps(load(tmp_path))
    told = [[text.get_text() for text in one.texts] for one in axes]
    blank = ["no row at this ratio"]
    assert told == [[], [], [], blank, blank, []]


def test_jaccard_by_hand() -> None:
    first, second = {("a", 0), ("a", 1), ("b", 0)}, {("a", 1), ("b", 0), ("b", 1)}
    assert agreement.jaccard(first, second) == 2 / 4
    assert agreement.jaccard(first, set()) == 0 and agreement.jaccard(set(), set()) == 1


def test_agreement_averages_over_shared_seeds(tmp_path: Path) -> None:
    def run(criterion: str, seed: int, mask: dict, scores: list[float]) -> None:
        write_run(tmp_path / "exp", criterion, seed, ratios=(0.0, 0.5), masks=({}, mask), scores=scores)

    run("his", 0, {"first": [0, 1]}, [1, 2, 3, 4, 5])
    run("his", 1, {"first": [0], "second": [0]}, [1, 2, 3, 4, 5])
    run("his", 2, {"second": [0, 1]}, [5, 4, 3, 2, 1])  # AE has no seed 2
    run("ae", 0, {"first": [0, 1]}, [10, 20, 30, 40, 500])  # the same ranking: 1
    run("ae", 1, {"first": [0], "second": [1]}, [2, 1, 3, 4, 5])  # one swap: 1 - 6 * 2 / (5 * 24) = 0.9
    rows = load(tmp_path)
    np.testing.assert_allclose(agreement.overlaps(rows, 0.5, ["HIS", "AE"]), [[1, (1 + 1 / 3) / 2]] * 1 + [[2 / 3, 1]])
    np.testing.assert_allclose(agreement.correlations(rows, ["HIS", "AE"]), [[1, 0.95], [0.95, 1]])
    panels = agreement.draw_agreement(rows)
    assert [text.get_text() for text in panels[0].texts] == ["1.00", "0.67", "0.67", "1.00"]
    assert [text.get_text() for text in panels[1].texts] == ["1.00", "0.95", "0.95", "1.00"]


def test_constant_scores_have_no_correlation_and_no_zero(tmp_path: Path) -> None:
    write_run(tmp_path / "exp", "his", ratios=(0.0, 0.5))
    write_run(tmp_path / "exp", "l2", ratios=(0.0, 0.5), scores=[1, 1, 1, 1, 1])
    texts = [text.get_text() for text in agreement.draw_agreement(load(tmp_path))[-1].texts]
    assert texts == ["1.00", "n/a", "n/a", "n/a"]


@pytest.mark.parametrize(
    ("draw", "reason"),
    [(curves.draw_curves, "unpruned"), (heads.draw_heatmaps, "no rows"), (agreement.draw_agreement, "two criteria")],
)
def test_figures_say_what_they_lack(tmp_path: Path, draw, reason: str) -> None:
    write_run(tmp_path / "exp", "random", ratios=(0.0,), quality=(90,))
    with pytest.raises(Unavailable, match=reason):
        draw(load(tmp_path))
