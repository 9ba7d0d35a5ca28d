"""When entropy helps: HIES minus HIS by calibration size and by checkpoint, k chosen elsewhere, and signs."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from analysis_runs import ALPHA, right_in, write_run
from scipy.stats import spearmanr, t

from analysis import load
from analysis.errors import Unavailable
from analysis.figures.depth import draw_depth
from analysis.figures.few_examples import draw_few_examples
from analysis.stats.overlap import mean_jaccard
from analysis.stats.pairing import paired
from analysis.stats.signs import layer_statistics, predictors, rank_correlations, sign_gains
from analysis.stats.sizes import agreement_of_draws
from analysis.stats.variants import compare
from analysis.tables.checkpoints import checkpoints_table
from analysis.tables.signs import signs_table
from analysis.tables.sizes import held_out_table, sizes_table

SHRINK = f"HIES ({ALPHA} = n / (n + k)"
DRAWS = 50


@pytest.fixture(scope="module")
def sizes(tmp_path_factory):
    """HIS is right in 80 % everywhere; of HIES k = 1 gains on task a alone, k = 4 on b and c, with one example."""
    folder = tmp_path_factory.mktemp("sizes")
    gains = {"a": (0.10, 0.0), "b": (0.0, 0.05), "c": (0.0, 0.05)}
    for task, (one, four) in gains.items():
        for size in (1, 32):
            more = [one, four] if size == 1 else [0.0, 0.0]
            right_in(folder, "his", 1.0, 0.8, task=task, calibration_size=size)
            for k, gain in zip((1, 4), more, strict=True):
                knobs = {"alpha": "shrink", "prior_examples": k, "calibration_size": size}
                right_in(folder, "hies", 1.0, round(0.8 + gain, 6), task=task, **knobs)
    return load(folder)


def test_differences_by_calibration_size_are_those_of_the_same_size(sizes):
    data = sizes_table(sizes, draws=DRAWS).data
    means = data[(data["task"] == "mean") & (data["measure"] == "quality")]
    means = means.dropna(subset="mean")
    found = {(row.criterion, row.calibration_size): row.mean for row in means.itertuples(index=False)}
    assert {name: pytest.approx(value) for name, value in found.items()} == {
        (f"{SHRINK})", 1): 10 / 3,
        (f"{SHRINK}, k = 4)", 1): 10 / 3,
        (f"{SHRINK})", 32): 0,
        (f"{SHRINK}, k = 4)", 32): 0,
    }


def test_his_stands_with_its_own_means_and_the_caption_has_the_unpruned_ones(sizes):
    table = sizes_table(sizes, draws=DRAWS)
    shown = table.shown.set_index(["criterion", "examples"])
    his = sizes[(sizes["criterion"] == "his") & (sizes["calibration_size"] == 1)].groupby("ratio")["quality"].mean()
    assert shown.loc[("HIS", 1), "quality, 10 %"] == f"{his[0.1]:.2f}"
    assert shown.loc[(f"{SHRINK})", 1), "quality, 10 %"].startswith("+3.33 [")
    assert f"(unpruned: quality {his[0]:.2f}, stability" in table.caption and "at random 0.05 at 10 %" in table.caption
    assert "verdict" not in table.data and "verdict" in held_out_table(sizes, draws=DRAWS).data


def test_k_is_chosen_on_the_other_tasks_alone(sizes):
    data = held_out_table(sizes, draws=DRAWS).data
    quality = data[data["measure"] == "quality"].set_index("task")
    chosen = quality["criterion"].drop("mean").to_dict()
    # Without a, k = 4 is ahead; without b or c, k = 1: each task gets what helps the others, and so nothing.
    assert chosen == {"a": f"{SHRINK}, k = 4)", "b": f"{SHRINK})", "c": f"{SHRINK})"}
    assert quality["mean"].to_dict() == pytest.approx({"a": 0, "b": 0, "c": 0, "mean": 0}, abs=1e-9)
    assert set(quality["sizes"].drop("mean")) == {"1 32"}


def test_one_size_or_one_k_is_not_enough(sizes):
    with pytest.raises(Unavailable, match="at least two calibration sizes"):
        sizes_table(sizes[sizes["calibration_size"] == 1], draws=DRAWS)
    with pytest.raises(Unavailable, match="two curves of HIES"):
        held_out_table(sizes[sizes["prior_examples"] != 4], draws=DRAWS)


def test_few_examples_are_drawn_with_a_panel_for_each_measure_and_the_overlap(sizes):
    panels = draw_few_examples(sizes, draws=DRAWS)
    assert [axes.get_title(loc="left") for axes in panels] == [
        "quality,\n10 % removed",
        "stability,\n10 % removed",
        "overlap of draws,\n10 % removed",
    ]
    assert panels[0].get_xticklabels()[1].get_text() == "32"


def test_the_overlap_of_draws_is_the_mean_over_their_pairs(tmp_path: Path):
    masks = [{"first": [0]}, {"first": [0], "second": [1]}, {"second": [1, 2]}]
    assert mean_jaccard(masks) == pytest.approx((1 / 2 + 0 + 1 / 3) / 3)
    assert np.isnan(mean_jaccard(masks[:1]))
    for seed, mask in enumerate(masks):
        write_run(tmp_path / "exp", "his", seed, masks=({}, mask))
    assert agreement_of_draws(load(tmp_path))["agreement"].tolist() == pytest.approx([5 / 18])


def test_checkpoints_are_compared_each_with_itself_and_spread_by_t(tmp_path: Path):
    for checkpoint, gains in {"one": (9, 11), "two": (19, 21)}.items():
        for seed, gain in enumerate(gains):
            common = {"checkpoint": checkpoint, "ratios": (0.0, 0.4)}
            write_run(tmp_path / "exp", "his", seed, (90, 50), name=f"h{checkpoint}{seed}", **common)
            write_run(tmp_path / "exp", "hies", seed, (90, 50 + gain), name=f"e{checkpoint}{seed}", alpha=0.9, **common)
    table = checkpoints_table(load(tmp_path))
    assert "too few draws" in table.shown.iloc[0]["quality"]  # two checkpoints decide nothing
    data = table.data.set_index("measure").loc["quality"]
    half = t.ppf(0.975, 1) * np.std([10, 20], ddof=1) / 2**0.5
    assert (data["mean"], data["low"], data["high"]) == pytest.approx((15, 15 - half, 15 + half))
    assert (data["apart"], data["checkpoints"]) == (pytest.approx(50**0.5), 2)
    with pytest.raises(Unavailable, match="at least two checkpoints"):
        checkpoints_table(load(tmp_path).query("checkpoint == 'one'"))


@pytest.fixture(scope="module")
def signed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("signs")
    for task, (focused, diffuse) in {"a": (0.9, 0.6), "b": (0.5, 0.7)}.items():
        right_in(folder, "his", 1.0, 0.8, task=task)
        right_in(folder, "ae", 1.0, focused, task=task)
        right_in(folder, "ad", 1.0, diffuse, task=task)
        right_in(folder, "hies", 1.0, 0.85, task=task, alpha="auto")
        right_in(folder, "hies", 1.0, 0.80, task=task, alpha="auto", combination="printed")
        for other in ({"combination": "product"}, {"placebo": "permuted"}):  # no forms that differ in the sign alone
            right_in(folder, "hies", 1.0, 0.70, task=task, alpha="auto", **other)
    return load(folder)


def test_the_papers_sign_minus_the_turned_one(signed):
    gains = sign_gains(signed, DRAWS)
    found = gains[gains["measure"] == "quality"].set_index(["task", "criterion"])["mean"].to_dict()
    expected = {("a", "AE"): 30, ("b", "AE"): -20}
    expected |= {(task, f"HIES ({ALPHA} auto)"): 5 for task in "ab"}
    assert found == pytest.approx(expected)


def test_what_may_predict_a_sign_is_computed_from_the_heads(signed):
    layers = layer_statistics(signed)
    of_a = layers[layers["task"] == "a"]  # HIS 0 1 | 2 3 4, AE 4 3 | 2 1 0
    assert of_a["ae"].tolist() == [3.5, 1] and of_a["rho"].tolist() == pytest.approx([-1, -1])
    row = of_a.iloc[0]
    assert (row["entropy"], row["first"], row["his"], row["inside"]) == pytest.approx((2, 3.5, -1, -1))
    assert row["depth"] == pytest.approx(spearmanr([0, 0, 1, 1, 1], [4, 3, 2, 1, 0]).statistic)
    assert len(draw_depth(signed)) == 2
    table = signs_table(signed, draws=DRAWS)
    assert [*table.shown.columns[:6]] == ["model", "task", "criterion", "removed", "quality", "stability"]
    one_a_task = sign_gains(signed, DRAWS).query("criterion == 'AE' and measure == 'quality'")
    assert rank_correlations(one_a_task, predictors(signed)) == {}  # two are too few
    setting = {"model": "tiny", "measure": "loss", "unit": "nats"}
    many = pd.DataFrame([{**setting, "task": str(i), "mean": i, "his": -i, "low": -1, "high": 9} for i in range(5)])
    known = many[["model", "task", "his"]].assign(entropy=[3, 1, 4, 0, 5], first=0.0, depth=range(5), inside=2.0)
    found = rank_correlations(many.drop(columns="his"), known)
    assert (found["his"], found["depth"], found["entropy"]) == pytest.approx((-1, 1, 0.3))
    dust = many.assign(mean=[0, 1e-9, 2e-9, 3e-9, 1])  # all but the last print as 0.000
    assert rank_correlations(dust.drop(columns="his"), known)["depth"] == pytest.approx(
        spearmanr([0, 0, 0, 0, 1], range(5)).statistic
    )
    same = {**setting, "mean": 1e-9, "low": -1e-9, "high": 1e-9}  # whatever the sign, in every draw
    more = pd.concat([many, pd.DataFrame([{**same, "task": str(i), "his": 0} for i in range(5, 9)])])
    known = pd.concat([known, known.assign(task=[str(i) for i in range(5, 10)])])
    assert rank_correlations(more.drop(columns="his"), known) == found


def test_placebos_and_calibration_sets_stand_against_the_real_ones(tmp_path: Path):
    own, words = {"calibration_labels": "model"}, {"calibration_examples": "words", "calibration_labels": "model"}
    for knobs in ({}, own, words):
        right_in(tmp_path, "his", 1.0, 0.8, **knobs)
        right_in(tmp_path, "hies", 1.0, 0.85, alpha="auto", **knobs)
    assert set(paired(load(tmp_path))["quality_gain"]) == {0.0}  # each with HIS of its own set
    right_in(tmp_path, "hies", 1.0, 0.7, alpha="auto", placebo="permuted")
    data = compare(load(tmp_path), DRAWS)
    pairs = {(row.criterion, row.against) for row in data.itertuples()}
    hies, placebo = f"HIES ({ALPHA} auto)", f"HIES ({ALPHA} auto, AE of other heads)"
    labels, random = "the model's labels", "random words, the model's labels"
    assert pairs == {
        (hies, "HIS"), (placebo, "HIS"), (placebo, hies),
        *((f"HIES ({ALPHA} auto, {words})", reference) for words in (labels, random)
          for reference in ("HIS", f"HIS ({words})", hies)),
        *((f"HIS ({words})", "HIS") for words in (labels, random)),
    }  # fmt: skip
