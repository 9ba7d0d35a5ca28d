"""Findings, and what they take beside intervals: agreement of scores beyond rounding, alpha chosen again."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from analysis_runs import right_in, write_answers, write_run
from scipy.stats import pearsonr, t

from analysis import load
from analysis.cli import main
from analysis.data.answers import with_measure
from analysis.errors import Unavailable
from analysis.findings import FINDINGS
from analysis.findings.forms import HIS, PER_RATIO, ChosenAgain, Difference, PaperGain, RankOfGains, SameHeads
from analysis.stats.chosen import chosen_again
from analysis.tables.findings import findings, findings_table
from analysis.text.measures import CORRELATION, REFIT
from hies.runs.quality import stability

GAIN = Difference("gain", "a gain", "exp", PER_RATIO, HIS, "quality", (0.3, 0.5), "claims")
PRINTED = PaperGain("printed", "theirs", "table1_bert_glue_quality", "quality", 0.5)
TUNED = {"alpha": "per_ratio", "alpha_used": 0.99, "alphas": [0.99], "tuning_seeds": 3, "tuning_examples": 9}
TASKS = ("sst2", "cola", "mrpc", "qqp", "stsb", "qnli")


def rows_of(folder: Path, seeds: int = 5) -> pd.DataFrame:
    """HIES is ahead by 20 points on the last task and level on the others."""
    for task in TASKS:
        right_in(folder, "his", 0.9, 0.8, 0.7, 0.6, seeds=seeds, task=task)
        more = 0.2 * (task == TASKS[-1])
        right_in(folder, "hies", 0.9, 0.8, 0.7 + more, 0.6 + more, seeds=seeds, task=task, **TUNED)
    return load(folder)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    return rows_of(tmp_path_factory.mktemp("rows"))


def test_a_finding_of_one_task_says_so(rows: pd.DataFrame) -> None:
    rank = RankOfGains("rank", "ranks", "gain", "printed")
    lines = findings(rows, 50, (GAIN, PRINTED, rank)).set_index("key")
    gain = lines.loc["gain"]
    assert gain["mean"] == pytest.approx(20 / 6) and (gain["ahead"], gain["tasks"]) == (1, 6)
    assert gain["least"] == pytest.approx(0, abs=1e-9) and gain["least_without"] == "QNLI"
    assert gain["task_low"] < 0 < gain["low"] and gain["verdict"] == "ahead on these tasks: one task"
    assert gain["cells"] == 2 * 1 * 6 * 3  # measures, curves but one, tasks, ratios
    assert lines.loc["rank", "tasks"] == 6 and abs(lines.loc["rank", "mean"]) < 1


def test_what_rounding_leaves_is_ahead_of_nothing(rows: pd.DataFrame) -> None:
    nudged = rows.assign(quality=rows["quality"] + 1e-12 * rows["criterion"].eq("hies"))
    assert findings(nudged, 50, (GAIN,)).set_index("key").loc["gain", "ahead"] == 1


def test_a_task_at_chance_has_no_part_in_it(tmp_path: Path) -> None:
    for task in ("sst2", "piqa"):  # rows say 50 % of 50 examples, which only for piqa is chance
        right_in(tmp_path, "his", 0.9, 0.8, 0.7, 0.6, task=task)
        right_in(tmp_path, "hies", 0.9, 0.8, 0.9, 0.8, task=task, **TUNED)
    assert findings(load(tmp_path), 10, (GAIN,))["tasks"].tolist() == [1]


def test_the_papers_own_gain_at_half_of_the_heads_is_mostly_cola(rows: pd.DataFrame) -> None:
    printed = findings(rows, 10, (GAIN, PRINTED)).set_index("key").loc["printed"]
    assert (round(printed["mean"], 2), round(printed["least"], 2), printed["least_without"]) == (1.93, 0.92, "CoLA")


def test_few_draws_give_their_range_and_other_rows_nothing(tmp_path: Path, capsys) -> None:
    four = rows_of(tmp_path, seeds=4)
    line = findings(four, 10, (GAIN,)).iloc[0]
    assert line["verdict"] == "too few draws" and np.isnan(line["p"]) and line["low"] <= line["mean"] <= line["high"]
    with pytest.raises(Unavailable, match="no rows of the curves"):
        findings_table(four)  # what is declared is of other experiments
    assert main(["findings", "--results", str(tmp_path), "--out", str(tmp_path)]) != 0
    write_run(tmp_path / "one" / "glue", "his")
    assert main(["findings", "--results", str(tmp_path / "one"), "--out", str(tmp_path)]) != 0
    assert "not built: findings: " in capsys.readouterr().out


def test_over_checkpoints_their_means_are_what_chance_is_of(tmp_path: Path) -> None:
    gains = (0.02, 0.06, 0.10, 0.14, 0.18)
    for place, gain in enumerate(gains):
        knobs = {"task": "rte", "checkpoint": f"c{place}"}
        right_in(tmp_path, "his", 0.9, 0.8, 0.7, 0.6, seeds=3, **knobs)
        right_in(tmp_path, "hies", 0.9, 0.8, 0.7 + gain, 0.6 + gain, seeds=3, **TUNED, **knobs)
    rows = load(tmp_path)
    over = replace(GAIN, over="checkpoints")
    line = findings(rows, 200, (over,)).iloc[0]
    assert line["mean"] == pytest.approx(10) and line["draws"] == len(gains)
    # Of five numbers if checkpoints alone were drawn; the examples add to the variance and to the degrees of freedom.
    error = 100 * np.std(gains, ddof=1) / 5**0.5
    assert t.ppf(0.975, 30) * error < (line["high"] - line["low"]) / 2 < 1.3 * t.ppf(0.975, 4) * error
    assert line["verdict"] == "ahead"
    four = findings(rows[rows["checkpoint"] != "c0"], 50, (over,)).iloc[0]
    assert four["verdict"] == "too few draws" and (four["low"], four["high"]) == pytest.approx((6, 18))
    with pytest.raises(Unavailable, match="no rows of the curves"):
        findings(rows, 50, (GAIN,))  # over draws it would be of several models


def test_where_to_look_names_a_measure_that_the_table_does_not_show_of_itself(rows: pd.DataFrame) -> None:
    wheres = {
        ("claims", "quality"): "claims --experiment exp",
        ("variants", "stability"): "variants --experiment exp",
        ("variants", REFIT): f"variants --measure {REFIT} --experiment exp",
        ("sizes", "stability"): "sizes --experiment exp",
        ("curves", REFIT): f"curves --measure {REFIT} --experiment exp",
    }
    for (table, measure), where in wheres.items():
        one = replace(GAIN, table=table, measure=measure)
        used = rows[rows["task"].isin(["sst2", "stsb"])] if measure == REFIT else rows
        assert findings(used, 10, (one,))["where"].tolist() == [where]


def test_heads_in_common(rows: pd.DataFrame) -> None:
    same = SameHeads("same", "", "exp", PER_RATIO, HIS, (0.3, 0.5))
    line = findings(rows, 10, (GAIN, same)).set_index("key").loc["same"]
    assert (line["mean"], line["ahead"], line["verdict"]) == (1, 6, "alpha is 0.99 at all ratios on 6 of 6")


def test_every_declared_finding_has_a_key_of_its_own() -> None:
    keys = [one.key for one in FINDINGS]
    assert len(set(keys)) == len(keys)
    assert {one.gain for one in FINDINGS if isinstance(one, RankOfGains)} < set(keys)


def test_another_scale_of_scores_costs_stability_and_nothing_after_a_refit(tmp_path: Path) -> None:
    draw = np.random.default_rng(1)
    labels = draw.uniform(0, 5, 53).astype(np.float32)
    unpruned = (labels + draw.normal(0, 0.5, 53)).astype(np.float32)
    noisy = (unpruned + draw.normal(0, 0.6, 53)).astype(np.float32)
    answers = np.array([unpruned, 0.5 * unpruned + 1, noisy, np.full(53, 2.5)], dtype=np.float32)
    write_answers(tmp_path, "his", 0, labels, answers, "stsb", "pearson")
    right_in(tmp_path, "his", 0.9, 0.8, 0.7, 0.6, seeds=1, task="rte")
    rows = load(tmp_path)
    stsb, rte = (quality_of(rows[rows["task"] == task]) for task in ("stsb", "rte"))
    slope, level = np.polyfit(noisy, unpruned, 1)
    agree = np.rint((slope * noisy + level).clip(0, 5)) == np.rint(unpruned.clip(0, 5))
    assert stsb[REFIT][:3] == pytest.approx([100, 100, 100 * agree.mean()]) and stability(answers[1], unpruned) < 70
    assert stsb[CORRELATION][:3] == pytest.approx([100, 100, 100 * pearsonr(noisy, unpruned)[0]], rel=1e-5)
    assert stsb[REFIT][3] == pytest.approx(100 * (np.rint(unpruned.mean()) == np.rint(unpruned.clip(0, 5))).mean())
    assert np.isnan(stsb[CORRELATION][3])  # of constant scores
    assert rte[REFIT] == pytest.approx(rows[rows["task"] == "rte"]["stability"].tolist())


def quality_of(rows: pd.DataFrame) -> dict[str, list[float]]:
    return {name: with_measure(rows, name)[name].tolist() for name in (REFIT, CORRELATION)}


def test_the_choice_of_alpha_is_drawn_again(tmp_path: Path) -> None:
    # Alphas that are right on the same examples but for a few: which is best depends on the half that is drawn.
    right_in(tmp_path, "his", 0.9, 0.8, 0.7, 0.6, task="rte")
    for alpha, share in ((0.9, 0.75), (0.5, 0.75), (0.1, 0.2)):
        right_in(tmp_path, "hies", 0.9, 0.8, share, share, task="rte", alpha=alpha)
    rows = load(tmp_path)
    fixed, his = rows[rows["criterion"] == "hies"], rows[rows["criterion"] == "his"]
    (gains,) = chosen_again(fixed, his, (0.3, 0.5), 60).values()
    assert (
        gains.shape == (2, 60)
        and gains.mean(axis=1) == pytest.approx([10, 10], abs=2)
        and (gains.std(axis=1) > 0).all()
    )
    np.testing.assert_array_equal(gains, chosen_again(fixed, his, (0.3, 0.5), 60)["rte"])
    again = ChosenAgain("again", "", "exp", "exp", (0.3, 0.5))
    right_in(tmp_path, "hies", 0.9, 0.8, 0.7, 0.6, task="rte", **TUNED)
    line = findings(load(tmp_path), 60, (GAIN, again)).set_index("key").loc["again"]
    assert line["mean"] == pytest.approx(gains[0].mean()) and line["verdict"].startswith("too few draws; width")
