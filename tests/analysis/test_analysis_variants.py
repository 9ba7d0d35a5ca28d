"""Other forms of HIS, AE and HIES against their references: which are compared, with which numbers, and how drawn."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from analysis_runs import ALPHA, HIES, HIES_BATCH, RATIOS, TUNED, answers_right_in, right_in, write_answers
from scipy.stats import pearsonr, t
from shown import caption_of

from analysis import load
from analysis.cli import main
from analysis.errors import Unavailable
from analysis.figures import forest
from analysis.stats.resampling import example_counts
from analysis.stats.significance import ESTIMATE
from analysis.stats.variants import COMPARISON, NO_REFERENCE, compare
from analysis.tables.differences import variants_table
from analysis.text.labels import label

BATCH = {"reduction": "batch", "reduction_batch": 32}


@pytest.mark.parametrize(
    ("criterion", "knobs", "name"),
    [
        ("his", {"reduction": "example"}, "HIS"),
        ("his", BATCH, "HIS (per batch)"),
        ("his", {"reduction": "batch_l2", "reduction_batch": 32}, "HIS (per batch, layer L2)"),
        ("his", {"reduction": "batch", "reduction_batch": 8}, "HIS (per batch, batch size = 8)"),
        ("his", {"reduction": "token", "reduction_batch": np.nan}, "HIS (per token)"),
        ("ae", {"entropy": "shannon", "order": None}, "AE"),
        ("ae", {"entropy": "renyi", "order": 2.0}, "AE (Renyi 2)"),
        ("hies", {"alpha": 0.9, "entropy": "tsallis", "order": 0.5}, f"HIES ({ALPHA} = 0.9, Tsallis 0.5)"),
        ("ae", {"entropy": "gini", "order": np.nan}, "AE (Gini-Simpson)"),
        ("ae", {"entropy": "min"}, "AE (min-entropy)"),
        ("ae", {"entropy": "support"}, "AE (effective support)"),
        ("hies", {"alpha": "per_ratio", "combination": "product"}, f"HIES ({ALPHA} per ratio, product)"),
        ("hies", {"alpha": "per_ratio", "combination": "printed"}, f"HIES ({ALPHA} per ratio, as D.8 prints it)"),
        ("hies", {"alpha": "per_ratio", "combination": "sum"}, HIES),
        ("hies", {"alpha": "per_ratio", **BATCH}, HIES_BATCH),
    ],
)
def test_labels_of_other_forms(criterion: str, knobs: dict[str, Any], name: str) -> None:
    assert label(criterion, knobs) == name


def pairs(data: pd.DataFrame) -> list[tuple[str, str]]:
    return list(dict.fromkeys(zip(data["criterion"], data["against"], strict=True)))


def line(data: pd.DataFrame, **cell: Any) -> pd.Series:
    """The one line of a comparison with these values."""
    found = data[np.logical_and.reduce([data[name] == value for name, value in cell.items()])]
    assert len(found) == 1
    return found.iloc[0]


REDUCTION = [
    ("his", {}), ("his", BATCH), ("his", {"reduction": "token"}), ("hies", TUNED), ("hies", {**TUNED, **BATCH}),
]  # fmt: skip
ENTROPY = [
    ("his", {}), ("ae", {}), ("ae", {"entropy": "gini"}), ("hies", {"alpha": 0.9}),
    ("hies", {"alpha": 0.9, "entropy": "renyi", "order": 2}),
]  # fmt: skip
COMBINATION = [
    ("his", {}), ("hies", TUNED), ("hies", {**TUNED, "normalize": "rank"}),
    ("hies", {**TUNED, "combination": "product"}),
]  # fmt: skip
SHANNON, RENYI = f"HIES ({ALPHA} = 0.9)", f"HIES ({ALPHA} = 0.9, Renyi 2)"
RANK, PRODUCT = (f"HIES ({ALPHA} per ratio, {words})" for words in ("normalize = rank", "product"))


@pytest.mark.parametrize(
    ("jobs", "expected"),
    [
        (
            REDUCTION,
            [
                (HIES, "HIS"), (HIES_BATCH, "HIS"), ("HIS (per batch)", "HIS"), ("HIS (per token)", "HIS"),
                (HIES_BATCH, HIES),
                (HIES, "HIS (per batch)"), (HIES_BATCH, "HIS (per batch)"),
                (HIES, "HIS (per token)"), (HIES_BATCH, "HIS (per token)"),
            ],
        ),
        (ENTROPY, [(SHANNON, "HIS"), (RENYI, "HIS"), (RENYI, SHANNON), ("AE (Gini-Simpson)", "AE")]),
        (COMBINATION, [(HIES, "HIS"), (RANK, "HIS"), (PRODUCT, "HIS"), (RANK, HIES), (PRODUCT, HIES)]),
    ],
    ids=["reduction", "entropy", "combination"],
)  # fmt: skip
def test_what_is_compared_and_in_which_order(tmp_path: Path, jobs: list, expected: list) -> None:
    for criterion, knobs in jobs:
        right_in(tmp_path, criterion, 0.9, 0.8, 0.7, seeds=2, **knobs)
    data = compare(load(tmp_path), draws=5)
    assert pairs(data) == expected and list(data) == COMPARISON
    assert len(data) == 4 * len(expected) and (data["mean"] == 0).all() and (data["verdict"] == "too few draws").all()


def test_verdicts_of_each_measure_and_range_of_ratios(tmp_path: Path) -> None:
    right_in(tmp_path, "his", 0.9, 0.9, 0.6, 0.4)
    right_in(tmp_path, "his", 0.9, 0.6, 0.8, 0.8, **BATCH)
    data = compare(load(tmp_path), draws=200)
    above = line(data, removed="30 to 90 %", measure="quality")
    below = line(data, removed="up to 10 %", measure="quality")
    # By hand: (0.8 - 0.6 + 0.8 - 0.4) / 2 = 0.3 and 0.6 - 0.9 = -0.3.
    assert (above["mean"], below["mean"]) == pytest.approx((30, -30))
    assert (above["ratios"], below["ratios"]) == ("0.3 0.5", "0.1")
    assert (above["verdict"], below["verdict"]) == ("ahead", "behind")
    assert above["low"] < 30 < above["high"] and above["low"] > 15 and above["seeds"] == 5
    # Answers differ from the unpruned ones where those are right and these are not: the same 0.3 and -0.3.
    assert line(data, removed="30 to 90 %", measure="stability")["mean"] == pytest.approx(30)
    assert line(data, removed="up to 10 %", measure="stability")["verdict"] == "behind"


def test_the_variance_of_a_mean_over_tasks_is_that_of_seeds_and_shared_examples_of_each(tmp_path: Path) -> None:
    draw, sizes = np.random.default_rng(5), {"sst2": 31, "rte": 37}
    answers = {task: draw.integers(0, 2, (5, 2, len(RATIOS), size)) for task, size in sizes.items()}
    truth = {task: draw.integers(0, 2, size) for task, size in sizes.items()}
    for task in sizes:
        for seed in range(5):
            for knobs, side in zip(({}, BATCH), answers[task][seed], strict=True):
                write_answers(tmp_path, "his", seed, truth[task], side, task, **knobs)
    data = compare(load(tmp_path), draws=11)
    parts = {}
    for task, size in sizes.items():
        counts = np.concatenate(list(example_counts(task, size, 11)))
        right = (answers[task][:, :, 2:] == truth[task]) * 100.0  # [seeds, sides, ratios, examples]
        gained = (right[:, 1] - right[:, 0]).mean(axis=1)  # [seeds, examples]
        drawn = counts @ gained.mean(axis=0) / size
        of_seeds = gained.mean(axis=1).var(ddof=1) / 5
        parts[task] = of_seeds + drawn.var(), 4 * ((of_seeds + drawn.var()) / of_seeds) ** 2
    variances, freedom = np.array([*parts.values()]).T
    by_task = {**parts, "mean": (variances.sum() / 4, variances.sum() ** 2 / (variances**2 / freedom).sum())}
    for task, (variance, df) in by_task.items():
        found = line(data, task=task, removed="30 to 90 %", measure="quality")
        half = (found["high"] - found["low"]) / 2
        assert half == pytest.approx(t.ppf(0.975, df) * variance**0.5, rel=1e-5)
    whole = [
        100 * np.mean((answers[task][:, 1, 2:] == truth[task]) * 1.0 - (answers[task][:, 0, 2:] == truth[task]))
        for task in sizes
    ]
    mean = line(data, task="mean", removed="30 to 90 %", measure="quality")
    assert mean["mean"] == pytest.approx(np.mean(whole)) and mean["tasks"] == 2


def test_hies_with_another_alpha_is_no_reference(tmp_path: Path) -> None:
    right_in(tmp_path, "hies", 0.9, 0.9, alpha=0.5)
    right_in(tmp_path, "hies", 0.9, 0.8, alpha=0.9)
    right_in(tmp_path, "hies", 0.9, 0.6, alpha=0.9, combination="product")
    table = variants_table(load(tmp_path), draws=20)
    product, whole = f"HIES ({ALPHA} = 0.9, product)", f"HIES ({ALPHA} = 0.9)"
    assert line(table.data, criterion=product, against=whole, measure="quality")["mean"] == pytest.approx(-20)
    assert f"HIES ({ALPHA} = 0.5)" not in set(table.data["against"])
    assert f"{whole} has no HIS on toy; {product} has no HIS on toy" in table.caption


def test_a_run_of_another_checkpoint_is_no_reference(tmp_path: Path) -> None:
    right_in(tmp_path, "his", 0.9, 0.8, checkpoint="one")
    right_in(tmp_path, "his", 0.9, 0.7, checkpoint="two", **BATCH)
    with pytest.raises(Unavailable, match=r"HIS \(per batch\), checkpoint two needs HIS"):
        compare(load(tmp_path))


def half(folder: Path) -> None:
    """HIES per batch has its HIES on two tasks of three, on one of them for two seeds of five."""
    for task in ("sst2", "cola", "rte"):
        right_in(folder, "his", 0.9, 0.7, 0.7, 0.7, task=task)
        right_in(folder, "hies", 0.9, 0.6, 0.8, 0.8, task=task, **TUNED, **BATCH)
    right_in(folder, "hies", 0.9, 0.6, 0.7, 0.7, task="sst2", **TUNED)
    right_in(folder, "hies", 0.9, 0.6, 0.5, 0.5, task="rte", seeds=2, **TUNED)


def test_a_missing_reference_is_named_and_never_zero(tmp_path: Path) -> None:
    half(tmp_path)
    table = variants_table(load(tmp_path), draws=50)
    cell = {"criterion": HIES_BATCH, "against": HIES, "removed": "30 to 90 %", "measure": "quality"}
    lacking = line(table.data, task="cola", **cell)
    assert np.isnan(lacking[["mean", "low", "high"]].astype(float)).all()
    assert (lacking["verdict"], lacking["seeds"], lacking["tasks"]) == (NO_REFERENCE, 0, 0)
    assert line(table.data, task="rte", **cell)["seeds"] == 2
    mean = line(table.data, task="mean", **cell)
    assert mean["mean"] == pytest.approx((10 + 30) / 2) and (mean["tasks"], mean["seeds"]) == (2, 2)
    shown = table.shown.set_index(["criterion", "against", "task"])
    assert shown.loc[(HIES_BATCH, HIES, "CoLA"), "quality, 30 and 50 %"] == NO_REFERENCE
    assert (HIES_BATCH, HIES, "mean of 2 tasks") in shown.index and (
        HIES_BATCH,
        "HIS",
        "mean of 3 tasks",
    ) in shown.index
    assert table.shown["task"].str.startswith("mean").tolist()[:3] == [True] * 3  # before the single tasks
    assert f"{HIES_BATCH} has no {HIES} on CoLA." in table.caption


def test_without_any_reference_nothing_is_built_and_all_are_named(tmp_path: Path) -> None:
    right_in(tmp_path, "ae", 0.9, 0.8, entropy="gini")
    right_in(tmp_path, "hies", 0.9, 0.8, **TUNED, **BATCH)
    needed = r"AE \(Gini-Simpson\) needs AE"
    with pytest.raises(Unavailable, match=needed) as raised:
        compare(load(tmp_path))
    assert f"{HIES_BATCH} needs {HIES}" in str(raised.value) and f"{HIES_BATCH} needs HIS" in str(raised.value)


def test_constant_predictions_leave_quality_undefined(tmp_path: Path) -> None:
    truth = np.linspace(0, 5, 40).astype(np.float32)
    noise = np.random.default_rng(0).normal(0, 1, (3, 2, 2, 40))
    answers = (truth + noise).astype(np.float32)
    answers[2, 1, 1] = 2.5  # of seed 2 per batch
    answers[1, 1, 1, :-2] = 2.5  # of seed 1 in some draws
    for seed in range(3):
        for knobs, side in zip(({}, BATCH), answers[seed], strict=True):
            write_answers(tmp_path, "his", seed, truth, side, "stsb", "pearson", **knobs)
            write_answers(tmp_path, "ae", seed, truth, np.full_like(side, 1), "stsb", "pearson",
                  **({"entropy": "min"} if knobs else {}))  # fmt: skip
    right_in(tmp_path, "ae", 0.9, 0.5, task="sst2")
    right_in(tmp_path, "ae", 0.9, 0.8, task="sst2", entropy="min")
    table = variants_table(load(tmp_path), draws=100)
    some = line(table.data, criterion="HIS (per batch)", measure="quality")
    correlations = [[pearsonr(truth, answers[seed, side, 1])[0] for side in (0, 1)] for seed in (0, 1)]
    assert some["mean"] == pytest.approx(np.mean([50 * (two - one) for one, two in correlations]), rel=1e-4)
    assert some["undefined_seeds"] == 1 and some["undefined_draws"] > 5
    every = {"criterion": "AE (min-entropy)", "measure": "quality"}
    for task in ("stsb", "mean"):  # one task without a number leaves the mean without one
        none = line(table.data, task=task, **every)
        assert np.isnan(none["mean"]) and none["verdict"] == ""
    assert line(table.data, task="sst2", **every)["mean"] == pytest.approx(30)
    shown = table.shown.set_index(["criterion", "task"])
    assert shown.loc[("AE (min-entropy)", "mean of 2 tasks"), "quality, 10 %"] == ""
    assert "STS-B up to" in table.caption
    texts = [text.get_text().strip() for axes in forest.draw_forest(load(tmp_path), draws=20) for text in axes.texts]
    assert texts == ["undefined"]


def test_one_seed_has_no_interval_and_decides_nothing(tmp_path: Path) -> None:
    right_in(tmp_path, "his", 0.9, 0.9, 0.3, seeds=1)
    right_in(tmp_path, "his", 0.9, 0.9, 0.8, seeds=1, **BATCH)
    table = variants_table(load(tmp_path), draws=20)
    alone = line(table.data, measure="quality", removed="30 to 90 %")
    assert alone["mean"] == pytest.approx(50) and np.isnan(alone["low"]) and alone["verdict"] == "too few draws"
    assert table.shown["quality, 30 %"].tolist() == ["too few draws: +50.00"]
    (first, *_) = forest.draw_forest(load(tmp_path), draws=20)
    assert marks(first, "o")[0][:2] == pytest.approx((50, 1))


def marks(axes, marker: str) -> list[tuple[float, float, bool]]:
    """Place on both axes of every such marker, and whether it is filled with its colour."""
    drawn = [one for one in axes.get_lines() if one.get_marker() == marker]
    return [(float(one.get_xdata()[0]), int(one.get_ydata()[0]), one.get_markerfacecolor() == one.get_color())
            for one in drawn]  # fmt: skip


def test_the_forest_has_a_block_for_each_reference(tmp_path: Path) -> None:
    half(tmp_path)
    panels = forest.draw_forest(load(tmp_path), draws=50)
    assert len(panels) == 2 * 4
    assert [axes.get_title(loc="left").replace("\n", " ") for axes in panels[:4]] == [
        "quality, 30 and 50 %", "stability, 30 and 50 %", "quality, 10 %", "stability, 10 %",
    ]  # fmt: skip
    names = [[text.get_text() for text in axes.get_yticklabels()] for axes in (panels[0], panels[4])]
    assert names == [
        ["minus HIS", f"{HIES}, 2 of 3 tasks", HIES_BATCH],
        [f"minus {HIES}", f"{HIES_BATCH}, 2 of 3 tasks"],
    ]
    # HIES minus HIS: 0 on SST-2 and -20 on RTE (of two seeds, so nothing is decided); per batch +10 on all three.
    assert marks(panels[0], "o") == [(pytest.approx(-10), 1, False), (pytest.approx(10), 2, True)]
    assert sorted(mark[:2] for mark in marks(panels[0], "|")) == [
        (pytest.approx(-20), 1), (pytest.approx(0), 1), *[(pytest.approx(10), 2)] * 3,
    ]  # fmt: skip
    assert panels[0].get_xlim() == panels[4].get_xlim()
    assert [axes.xaxis.get_tick_params()["labelbottom"] for axes in (panels[0], panels[4])] == [False, True]
    assert panels[0].get_xlim()[0] < -20 and panels[0].get_xlim()[1] > 20
    caption = panels[0].get_figure(root=True).get_supxlabel().replace("\n", " ")
    assert "5 seeds (0, 1, 2, 3, 4; 2 alone of" in caption and f"{HIES_BATCH} has no {HIES} on CoLA" in caption


def test_a_marker_is_hollow_where_the_interval_holds_zero_and_entropy_has_its_own_scale(tmp_path: Path) -> None:
    right_in(tmp_path, "his", 0.9, 0.9, 0.7)
    right_in(tmp_path, "his", 0.9, 0.9, 0.7, **BATCH)
    right_in(tmp_path, "ae", 0.9, 0.9, 0.9)
    right_in(tmp_path, "ae", 0.9, 0.9, 0.2, entropy="min")
    panels = forest.draw_forest(load(tmp_path), draws=50)
    his, ae = panels[0], panels[4]
    assert marks(his, "o") == [(0, 1, False)] and marks(ae, "o") == [(pytest.approx(-70), 1, True)]
    assert marks(his, "|") == marks(ae, "|") == []  # one task: it is what the circle says
    assert his.get_xlim()[0] > -5 and ae.get_xlim()[0] < -70
    assert his.xaxis.get_tick_params()["labelbottom"] and ae.xaxis.get_tick_params()["labelbottom"]


def test_limits_hold_all_intervals_and_leave_a_far_task_outside() -> None:
    lines = pd.DataFrame({"low": [-1.0, np.nan, np.nan], "mean": [1.0, 2.5, 90.0], "high": [2.0, np.nan, np.nan],
                          "bold": [True, False, False]})  # fmt: skip
    # The intervals take -1 to 2; tasks widen that by at most 0.6 x 3, and 6 % of the whole is margin.
    assert forest.scale_limits(lines) == pytest.approx((-1 - 0.06 * 4.8, 3.8 + 0.06 * 4.8))
    assert forest.scale_limits(lines.assign(low=0.0, mean=0.0, high=0.0)) == (-1, 1)


@pytest.mark.parametrize("make", [variants_table, forest.draw_forest])
def test_the_papers_forms_alone_are_no_study(tmp_path: Path, make) -> None:
    for criterion, knobs in (("his", {"reduction": "example"}), ("ae", {}), ("hies", TUNED), ("random", {})):
        right_in(tmp_path, criterion, 0.9, 0.8, seeds=1, **knobs)
    with pytest.raises(Unavailable, match="all its curves are the paper's forms"):
        make(load(tmp_path))


@pytest.mark.parametrize("make", [variants_table, forest.draw_forest])
def test_several_calibration_sizes_are_refused(tmp_path: Path, make) -> None:
    right_in(tmp_path, "his", 0.9, 0.8, seeds=1)
    right_in(tmp_path, "his", 0.9, 0.8, seeds=1, calibration_size=64, **BATCH)
    with pytest.raises(Unavailable, match="one calibration size"):
        make(load(tmp_path))


def test_both_are_written_by_name(tmp_path: Path, capsys) -> None:
    half(tmp_path)
    assert main(["variants", "forest", "--results", str(tmp_path), "--experiment", "exp", "--out", str(tmp_path)]) == 0
    assert sorted(path.name for path in tmp_path.glob("*s/*exp__tiny*")) == [
        "forest__exp__tiny.pdf", "forest__exp__tiny.png", "variants__exp__tiny.csv", "variants__exp__tiny.md",
    ]  # fmt: skip
    numbers = pd.read_csv(tmp_path / "tables" / "variants__exp__tiny.csv")
    assert list(numbers) == [*COMPARISON, "p_holm"] and set(ESTIMATE) < set(COMPARISON)


def test_references_that_lack_a_range_of_ratios_are_drawn_beside_those_that_have_it(tmp_path: Path) -> None:
    for task, criterion, other, ratio in (("cola", "his", BATCH, 0.5), ("rte", "ae", {"entropy": "min"}, 0.95)):
        for knobs in ({}, other):
            for seed in range(5):
                labels, answers = answers_right_in((0.9, 0.7), seed=seed)
                write_answers(tmp_path, criterion, seed, labels, answers, task, ratios=(0.0, ratio), **knobs)
    panels = forest.draw_forest(load(tmp_path), draws=20)
    titles = [axes.get_title(loc="left") for axes in panels if axes.get_title(loc="left")]
    assert titles == ["quality,\n50 %", "stability,\n50 %", "quality,\n95 %", "stability,\n95 %"]
    assert "Differences in percentage points" in caption_of(panels[0])
