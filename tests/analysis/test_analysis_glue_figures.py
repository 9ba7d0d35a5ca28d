"""Figures over several tasks and alphas, and figures 1, 3, 8 and 12 of the paper."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from analysis_runs import HEADS, hies, write_run
from matplotlib.collections import QuadMesh
from shown import caption_of, lines

from analysis import load, style
from analysis.data.diagnosis import diagnosis_file, load_diagnosis
from analysis.errors import Unavailable
from analysis.figures import alphas, curves, drop, heads, tasks
from analysis.text import choice

ALPHA = "\N{GREEK SMALL LETTER ALPHA}"
WORDS = ("per_ratio", "per_task", "auto", "per_ratio_on_report", "per_task_on_report")


@pytest.fixture
def words(tmp_path: Path) -> pd.DataFrame:
    """One curve for each way to choose alpha, beside two numbers and HIS."""
    for alpha in WORDS:
        hies(tmp_path / "exp", alpha, 0.9)
    for number in (0.5, 0.1):
        hies(tmp_path / "exp", number)
    write_run(tmp_path / "exp", "his")
    return load(tmp_path)


def test_every_way_to_choose_alpha_has_its_own_look(words: pd.DataFrame) -> None:
    looks = style.looks(words)
    assert len(looks) == len(WORDS) + 3
    hues = {(look["color"], str(look["marker"]), str(look["linestyle"])) for look in looks.values()}
    assert len(hues) == len(looks)
    strong = [curve for curve, look in looks.items() if look.get("linewidth", 0) > 3]
    assert strong == [f"HIES ({ALPHA} per ratio)"]
    assert (looks[strong[0]]["color"], looks["HIS"]["color"]) == (style.LOOKS["hies"][0], style.LOOKS["his"][0])


def test_the_plainest_curve_prefers_the_main_protocol_then_other_words_then_numbers(words: pd.DataFrame) -> None:
    order = []
    left = words
    while (curve := choice.plainest(left, "hies")) is not None:
        order.append(left.loc[left["curve"] == curve, "alpha"].iloc[0])
        left = left[left["curve"] != curve]
    assert order[:5] == ["per_ratio", "per_task", "auto", 0.5, 0.1]
    assert set(order[5:]) == {"per_ratio_on_report", "per_task_on_report"}
    assert choice.plainest(words, "ae") is None
    assert choice.with_word(words, "auto") == f"HIES ({ALPHA} auto)"


def test_the_plainest_curve_has_the_default_calibration_size(tmp_path: Path) -> None:
    for size in (1, 32, 1024):
        write_run(tmp_path / "exp", "his", calibration_size=size)
    rows = load(tmp_path)
    assert set(rows.loc[rows["curve"] == choice.plainest(rows, "his"), "calibration_size"]) == {32}


def test_heatmaps_name_the_alpha_of_the_scores_they_draw(tmp_path: Path) -> None:
    hies(tmp_path / "exp", "auto", 0.3, ratios=(0.0, 0.5))
    hies(tmp_path / "exp", "per_ratio", 0.7, ratios=(0.0, 0.5))
    rows = load(tmp_path)
    rows.loc[(rows["alpha"] == "per_ratio") & (rows["ratio"] == 0), "alpha_used"] = np.nan
    axes = heads.draw_heatmaps(rows)
    assert axes[0].get_title(loc="left") == f"HIES ({ALPHA} per ratio)\nlowest go first; drawn at {ALPHA} = 0.7"
    assert f"colours and removed heads are those of {ALPHA} = 0.7" in caption_of(axes[0])


def test_heatmaps_never_grey_with_another_alpha_than_they_colour_with(tmp_path: Path) -> None:
    hies(tmp_path / "exp", "per_ratio", 0.7, ratios=(0.0, 0.3, 0.5), quality=(9, 8, 7))
    rows = load(tmp_path)
    rows["alpha_used"] = [np.nan, 0.2, 0.7]
    _, other, same = heads.draw_heatmaps(rows)
    assert [text.get_text() for text in other.texts] == [f"removed with {ALPHA} = 0.2"] and not same.texts
    assert (len(other.collections), len(same.collections)) == (1, 2)  # the map, and what is greyed
    one = rows.assign(alpha="auto", alpha_used=[np.nan, 0.3, 0.3], curve="one for all")
    axes = heads.draw_heatmaps(pd.concat([rows, one], ignore_index=True))
    assert axes[0].get_title(loc="left") == f"one for all\nlowest go first; drawn at {ALPHA} = 0.3"
    assert not [text for panel in axes for text in panel.texts]


def two_tasks(folder: Path) -> None:
    """Two tasks, two seeds; one seed of the second task is undefined at 0.4."""
    options = {"ratios": (0.0, 0.2, 0.4)}
    write_run(folder, "his", 0, (90, 80, 70), task="rte", **options)
    write_run(folder, "his", 1, (90, 84, 60), task="rte", **options)
    write_run(folder, "his", 0, (50, 40, 30), task="cola", metric="matthews", examples=1234, **options)
    write_run(folder, "his", 1, (50, 48, None), task="cola", metric="matthews", examples=1234, **options)
    write_run(folder, "ae", 0, (90, 10, 10), task="rte", **options)


def test_tasks_draws_each_task_and_the_mean_where_all_have_a_number(tmp_path: Path) -> None:
    two_tasks(tmp_path / "exp")
    panels = tasks.draw_all_tasks(load(tmp_path))
    titles = [axes.get_title(loc="left") for axes in panels]
    assert titles == ["CoLA", "RTE", "Mean over tasks"] * 2  # the paper's order
    cola, rte, mean = panels[:3]
    np.testing.assert_allclose(lines(rte)["HIS"], [[0, 90], [20, 82], [40, 65]])
    np.testing.assert_allclose(lines(cola)["HIS"], [[0, 50], [20, 44], [40, 30]])
    np.testing.assert_allclose(lines(mean)["HIS"], [[0, 70], [20, (60 + 66) / 2], [40, (70 + 30) / 2]])  # seed 0 alone
    assert "AE" in lines(rte) and "AE" not in lines(mean)  # AE has one of the tasks
    np.testing.assert_allclose(lines(mean)["unpruned"][:, 1], 70)
    assert cola.get_title(loc="right") == "Matthews, n = 1,234"
    assert panels[3].get_ylabel() == "stability (%)" and panels[0].get_ylabel() == "quality (%)"
    assert "mean is over all 2 tasks" in caption_of(mean)


def test_tasks_shows_the_main_hies_auto_and_the_baselines(words: pd.DataFrame) -> None:
    both = pd.concat([words, words.assign(task="other")])
    named = set(lines(tasks.draw_all_tasks(both)[0]))
    assert named == {f"HIES ({ALPHA} per ratio)", f"HIES ({ALPHA} auto)", "HIS", "unpruned"}
    fixed = words[words["alpha"].map(choice.is_number)]
    assert tasks.shown_curves(fixed) == [f"HIES ({ALPHA} = 0.5)"]


def alpha_grid(folder: Path, task: str = "rte") -> None:
    """wAUC over 0.2 and 0.4 with weights 1/3 and 2/3, by hand: 0.9: 70, 0.5: 60, 0.1: (60 + 0) / 3 = 20, 0.3: 40."""
    options = {"ratios": (0.0, 0.2, 0.4), "task": task}
    hies(folder, 0.9, seed=0, quality=(90, 80, 65), **options)
    hies(folder, 0.5, seed=0, quality=(90, 80, 50), **options)
    hies(folder, 0.1, seed=0, quality=(90, 60, None), **options)
    hies(folder, 0.3, seed=0, quality=(90, 0, 60), **options)
    hies(folder, 0.7, seed=0, quality=(90, 50, 50), **options)


def test_weighted_areas_by_hand(tmp_path: Path) -> None:
    alpha_grid(tmp_path / "exp")
    hies(tmp_path / "exp", 0.9, seed=1, quality=(90, 60, 75), ratios=(0.0, 0.2, 0.4), task="rte")  # also 70
    hies(tmp_path / "exp", 0.5, seed=1, quality=(90, 80, None), ratios=(0.0, 0.2, 0.4), task="rte")  # 80 / 3
    areas = alphas.weighted_areas(choice.fixed_alphas(load(tmp_path)))
    expected = {0.9: 70, 0.7: 50, 0.5: (60 + 80 / 3) / 2, 0.3: 40, 0.1: 20}
    assert list(areas.index) == [0.9, 0.7, 0.5, 0.3, 0.1]
    np.testing.assert_allclose(areas.to_numpy(), list(expected.values()))


def test_weighted_areas_leave_out_a_ratio_that_one_alpha_lacks(tmp_path: Path) -> None:
    hies(tmp_path / "exp", 0.9, quality=(90, 80, 65), ratios=(0.0, 0.2, 0.4))
    hies(tmp_path / "exp", 0.5, quality=(90, 81), ratios=(0.0, 0.2))
    np.testing.assert_allclose(alphas.weighted_areas(choice.fixed_alphas(load(tmp_path))), [81, 80])


def test_figure12_draws_best_median_and_worst(tmp_path: Path) -> None:
    alpha_grid(tmp_path / "exp")
    write_run(tmp_path / "exp", "his", quality=(90, 85, 45), ratios=(0.0, 0.2, 0.4), task="rte")
    hies(tmp_path / "exp", "per_ratio", 0.9, quality=(90, 99, 99), ratios=(0.0, 0.2, 0.4), task="rte")
    alpha_grid(tmp_path / "exp", "cola")
    cola, rte = alphas.draw_figure12(load(tmp_path))
    drawn = lines(rte)
    names = [f"best {ALPHA}", f"median {ALPHA}", f"worst {ALPHA}", "HIS"]
    assert list(drawn) == [*names, "unpruned"]
    np.testing.assert_allclose(drawn[names[0]][:, 1], [90, 80, 65])
    np.testing.assert_allclose(drawn[names[2]][:, 1], [90, 60, np.nan])
    np.testing.assert_allclose(drawn["HIS"][:, 1], [90, 85, 45])
    assert rte.get_title(loc="right") == f"{ALPHA} = 0.9, 0.7, 0.1"  # of the areas 70 60 50 40 20
    (legend,) = rte.get_figure(root=True).legends
    assert [text.get_text() for text in legend.get_texts()] == [*names[:3], "unpruned", "HIS"]
    assert "HIS" not in lines(cola)
    told = caption_of(rte)
    assert "weight of a ratio is the ratio itself" in told and "Undefined quality counts as 0" in told


def test_alphas_draws_one_line_a_ratio_at_equal_distances(tmp_path: Path) -> None:
    alpha_grid(tmp_path / "exp")
    hies(tmp_path / "exp", 0.9, seed=1, quality=(90, 60, 75), ratios=(0.0, 0.2, 0.4), task="rte")
    (panel,) = alphas.draw_alphas(load(tmp_path))
    assert [text.get_text() for text in panel.get_xticklabels()] == ["0.1", "0.3", "0.5", "0.7", "0.9"]
    drawn = lines(panel)
    assert list(drawn) == ["20 %", "40 %"]
    np.testing.assert_allclose(drawn["20 %"], [[0, 60], [1, 0], [2, 80], [3, 50], [4, 70]])
    np.testing.assert_allclose(drawn["40 %"][:, 1], [np.nan, 60, 50, 50, 70])
    assert "A gap: quality is undefined" in caption_of(panel)


MASKS = (
    {},
    {"first": [0], "second": [1]},  # of HIS at 0.4
)


def his_and_hies(folder: Path) -> None:
    scores = {"heads": HEADS, "ratios": (0.0, 0.4)}
    write_run(folder, "his", 0, masks=MASKS, **scores)
    write_run(folder, "his", 1, masks=MASKS, scores=[5, 4, 3, 2, 1], **scores)
    masks = ({}, {"first": [0], "second": [2]})
    hies(folder, "per_ratio", 0.85, seed=1, masks=masks, scores=[0.1, 0.2, 0.3, 0.4, 0.9], **scores)


def test_figure3_tells_the_fate_of_every_head(tmp_path: Path) -> None:
    his_and_hies(tmp_path / "exp")
    (panel,) = heads.draw_figure3(load(tmp_path))
    mesh = next(one for one in panel.collections if isinstance(one, QuadMesh))
    fate = mesh.get_array().reshape(2, 3).filled(-1)
    np.testing.assert_array_equal(fate, [[3, 0, -1], [0, 1, 2]])  # the first site has two heads
    (legend,) = panel.get_figure(root=True).legends
    assert [text.get_text() for text in legend.get_texts()] == ["neither", "only HIS", "only HIES", "both"]
    assert panel.get_xlabel() == "head\n1 only HIS, 1 only HIES, 1 both"
    assert panel.get_title(loc="left") == "40 % removed" and panel.get_title(loc="right") == f"HIES: {ALPHA} = 0.85"
    assert "1 seed (1)" in caption_of(panel)  # the lowest that both have


def test_figure8_draws_a_bar_for_every_head(tmp_path: Path) -> None:
    his_and_hies(tmp_path / "exp")
    left, right = heads.draw_figure8(load(tmp_path))
    cells = [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2)]
    for axes, heights in ((left, [5, 4, 3, 2, 1]), (right, [0.1, 0.2, 0.3, 0.4, 0.9])):
        corners = [bar._faces.reshape(-1, 3) for bar in sorted(axes.collections, key=lambda bar: bar.get_zorder())]
        places = [tuple(np.round((one.max(0) + one.min(0)) / 2)[[1, 0]].astype(int)) for one in corners]
        tops = [one[:, 2].max() for one in corners]
        assert dict(zip(places, tops, strict=True)) == pytest.approx(dict(zip(cells, heights, strict=True)))
        assert places.index((1, 0)) < places.index((0, 0)) < places.index((0, 1))  # the nearest bar is drawn last
    assert right.get_title() == f"HIES ({ALPHA} per ratio), drawn at {ALPHA} = 0.85"


def write_diagnosis(folder: Path, seed: int = 0, **changes: Any) -> None:
    attention = np.array([[0.5, 0.5, 0], [1, 0, 0], [0.2, 0.3, 0.5], [0, 0.9, 0.1], [1 / 3] * 3], dtype=np.float32)
    arrays = {
        "seed": seed, "ratio_before": 0.0, "ratio": 0.4, "removed": np.array([True, False, False, True, False]),
        "tokens": np.array(["[CLS]", "$5", "##s"]), "attention": attention, "label": "yes", "unpruned": "yes",
        "pruned": "no", "example": 7, "checkpoint": "c", **changes,
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / diagnosis_file("tiny", "toy", seed), **arrays)


def test_figure1_shows_the_drop_the_attention_and_the_removed_heads(tmp_path: Path) -> None:
    folder = tmp_path / "exp"
    write_run(folder, "his", 0, (90, 60), scores=[1, 2, 4, 8, 16], arrays={"ae": np.array([0.1, 0.2, 0.3, 0.4, 0.5])})
    write_run(folder, "his", 1, (90, 70))
    write_diagnosis(folder)
    curve, heat, his, ae = drop.draw_figure1(load(tmp_path))
    np.testing.assert_allclose(lines(curve)["HIS, seed 0"], [[0, 90], [40, 60]])
    (span,) = curve.patches
    assert (span.get_x(), span.get_width()) == (0, 40)
    assert span.get_label() == "0 % to 40 %:\n\N{MINUS SIGN}30.0 points"
    mesh = next(one for one in heat.collections if isinstance(one, QuadMesh))
    shown = mesh.get_array().reshape(6, 3)
    focused = [[1, 0, 0], [0.2, 0.3, 0.5], [1 / 3] * 3, None, [0, 0.9, 0.1], [0.5, 0.5, 0]]  # kept, a gap, removed
    assert shown.mask[3].all()
    for row, expected in zip(shown, focused, strict=True):
        if expected is not None:
            np.testing.assert_allclose(row, expected, atol=1e-6)
    assert [text.get_text() for text in heat.get_xticklabels()] == ["[CLS]", "$5", "##s"]
    assert [text.get_text() for text in heat.get_yticklabels()] == ["kept (3 heads)", "removed (2 heads)"]
    for axes in (his, ae):
        removed, kept = (sum(bar.get_height() for bar in group) for group in axes.containers)
        assert (removed, kept) == (2, 3)
    assert "label yes; the unpruned model says yes, the pruned one no" in caption_of(curve)


@pytest.mark.parametrize(
    ("ends", "title"), [((0.4, 0.8), "Steepest drop"), ((0.0, 0.4), "Diagnosed step"), ((0.8, 0.9), "Diagnosed step")]
)
def test_figure1_calls_the_diagnosed_step_what_it_is(tmp_path: Path, ends: tuple[float, float], title: str) -> None:
    write_run(tmp_path / "exp", "his", quality=(90, 89, 62, 70), ratios=(0.0, 0.4, 0.8, 0.9), scores=[1, 2, 4, 8, 16])
    write_diagnosis(tmp_path / "exp", ratio_before=ends[0], ratio=ends[1])
    curve, *_ = drop.draw_figure1(load(tmp_path))
    assert curve.get_title(loc="left") == title
    assert f"the ratio after the {title.lower()}." in caption_of(curve)
    write_diagnosis(tmp_path / "exp", ratio_before=ends[0], ratio=0.85)
    with pytest.raises(Unavailable, match="at 85 %, which were diagnosed; diagnose it again"):
        drop.draw_figure1(load(tmp_path))
    write_diagnosis(tmp_path / "exp", removed=np.array([True, False, True, False, False]))  # of another calibration set
    with pytest.raises(Unavailable, match="removes other heads than were diagnosed; diagnose it again"):
        drop.draw_figure1(load(tmp_path))


def test_figure1_names_the_command_that_makes_its_diagnosis(tmp_path: Path) -> None:
    write_run(tmp_path / "exp", "his", command="python -m experiments.run criterion=his seed=0 experiment=exp")
    with pytest.raises(Unavailable, match=r"`python -m experiments\.diagnose criterion=his seed=0 experiment=exp`"):
        drop.draw_figure1(load(tmp_path))


def test_a_diagnosis_of_another_checkpoint_is_refused(tmp_path: Path) -> None:
    write_run(tmp_path / "exp", "his")
    write_diagnosis(tmp_path / "exp", checkpoint="other")
    with pytest.raises(Unavailable, match="of the checkpoint other, the rows of another"):
        load_diagnosis(load(tmp_path).iloc[0])


def test_the_diagnosis_of_the_lowest_seed_is_read_and_a_broken_one_is_named(tmp_path: Path) -> None:
    write_run(tmp_path / "exp", "his")
    row = load(tmp_path).iloc[0]
    for seed in (10, 2):
        write_diagnosis(tmp_path / "exp", seed)
    assert load_diagnosis(row).seed == 2
    write_diagnosis(tmp_path / "exp", 0, attention=np.ones((2, 2)))
    with pytest.raises(Unavailable, match=r"diagnosis-tiny-toy-s0\.npz cannot be read"):
        load_diagnosis(row)


def test_a_regression_task_is_drawn_with_its_mapping(tmp_path: Path) -> None:
    write_run(tmp_path / "exp", "his", task="stsb", metric="pearson", quality=(94.0, None))
    quality, _ = curves.draw_curves(load(tmp_path))
    assert quality.get_title(loc="left") == "Quality: Pearson"
    assert "mapped from [-1, 1]" in caption_of(quality) and "STS-B" in quality.figure.get_suptitle()


@pytest.mark.parametrize(
    ("draw", "reason"),
    [
        (tasks.draw_all_tasks, "two tasks"),
        (alphas.draw_figure12, "three numbers"),
        (alphas.draw_alphas, "three numbers"),
        (heads.draw_figure3, "no seed in common"),
        (heads.draw_figure8, "no seed in common"),
        (drop.draw_figure1, "no rows of his"),
    ],
)
def test_figures_say_what_they_lack(tmp_path: Path, draw, reason: str) -> None:
    write_run(tmp_path / "exp", "random")
    with pytest.raises(Unavailable, match=reason):
        draw(load(tmp_path))
