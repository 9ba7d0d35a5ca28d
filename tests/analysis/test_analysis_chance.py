"""Tasks at chance are found by a test, named, and have no part in means of quality alone."""

from math import comb
from pathlib import Path

import pytest
from analysis_runs import right_in, write_run
from shown import caption_of

from analysis import load
from analysis.data.chance import CHANCE_LEVEL, at_chance
from analysis.figures.tasks import draw_all_tasks, mean_of_tasks
from analysis.stats.pairing import paired
from analysis.stats.significance import averaged_gains, curve_differences
from analysis.tables.differences import claims_table
from analysis.tables.leaderboard import leaderboard_table
from analysis.tables.spread import table10


def write(folder: Path, task: str, percent: float, **keys) -> None:
    write_run(folder / "exp", "his", 0, (percent, max(0, percent - 10)), task=task, **{"examples": 100, **keys})


def fewest_above(examples: int, level: float) -> int:
    """By the sum of the binomial distribution."""
    tail = 0.0
    for right in range(examples, -1, -1):
        tail += comb(examples, right) * level**right * (1 - level) ** (examples - right)
        if tail >= CHANCE_LEVEL:
            return right + 1
    return 0


@pytest.mark.parametrize(("task", "level"), [("hellaswag", 0.25), ("piqa", 0.5)])
def test_a_task_is_above_chance_from_the_number_that_the_binomial_distribution_says(
    tmp_path: Path, task: str, level: float
) -> None:
    fewest = fewest_above(100, level)
    write(tmp_path / "a", task, fewest)
    write(tmp_path / "b", task, fewest - 1)
    assert at_chance(load(tmp_path / "a"), "quality") == []
    assert at_chance(load(tmp_path / "b"), "quality") == [task]
    assert at_chance(load(tmp_path / "b"), "stability") == at_chance(load(tmp_path / "b"), "loss") == []


def test_each_measure_has_its_own_answer_and_a_row_knows_its_chance(tmp_path: Path) -> None:
    write(tmp_path, "hellaswag", 30, quality_norm=48)
    write(tmp_path, "toy", 40, chance=0.5)
    write(tmp_path, "sst2", 50)  # a classifier
    write(tmp_path, "gsm8k", 1, metric="exact_match")  # no options: one right answer is no guess
    rows = load(tmp_path)
    assert at_chance(rows, "quality") == ["hellaswag", "toy"]
    assert at_chance(rows, "quality_norm") == ["toy"]
    assert not rows["curve"].str.contains("chance").any()
    write(tmp_path, "gsm8k", 0, metric="exact_match")
    assert "gsm8k" in at_chance(load(tmp_path), "quality")


def test_means_of_quality_leave_it_out_and_captions_say_so(tmp_path: Path) -> None:
    for task, percent in (("hellaswag", 50), ("arc_easy", 60), ("openbookqa", 26)):
        write(tmp_path, task, percent)
    rows = load(tmp_path)
    mean = mean_of_tasks(rows, "quality").set_index("ratio")["quality"]
    assert mean.tolist() == [55, 45]
    assert len(mean_of_tasks(rows, "stability")) == 2
    text = caption_of(draw_all_tasks(rows)[0])
    assert "over all 3 tasks (of quality over 2)" in text
    assert "Unpruned no better than a guess, and no part of means of quality: OBQA." in text
    board = leaderboard_table(rows)
    assert board.data["quality_mean"].tolist() == [45] and board.data["quality_on_openbookqa"].tolist() == [16]
    assert "no part of means of quality: OBQA." in board.caption


def test_without_any_task_above_chance_there_is_no_mean(tmp_path: Path) -> None:
    for task in ("hellaswag", "arc_easy"):
        write(tmp_path, task, 26)
    panels = draw_all_tasks(load(tmp_path))
    quality, stability = panels[2], panels[5]
    assert [text.get_text() for text in quality.texts] == ["no task above chance"] and not stability.texts
    assert "(of quality over none)" in caption_of(panels[0])


def test_claims_have_no_mean_of_quality_over_it(tmp_path: Path) -> None:
    for task in ("piqa", "toy", "other"):  # rows say 50 % of 50 examples, which only for piqa is chance
        right_in(tmp_path, "his", 1, 0.9, 0.8, 0.7, task=task)
        right_in(tmp_path, "hies", 1, 0.9, 0.8, 0.7, task=task, alpha="auto")
    rows = load(tmp_path)
    table = claims_table(rows, draws=20)
    assert "no part of means of quality: PIQA" in table.caption
    assert set(table.data[table.data["task"] != "mean"].groupby("claim")["task"].nunique()) == {3}
    pairs = paired(rows).rename(columns={"path_his": "path_against"}).assign(against="HIS")
    gains = curve_differences(rows, pairs, draws=20)
    averaged = {measure: averaged_gains([gain for gain in gains if gain.measure == measure])
                for measure in ("quality", "stability")}  # fmt: skip
    assert [gain.task for gain in averaged["quality"]] == ["other", "toy"]
    assert [gain.task for gain in averaged["stability"]] == ["piqa", "other", "toy"]


def test_table_10_has_no_average_with_a_task_at_chance(tmp_path: Path) -> None:
    for task, percent in (("hellaswag", 50), ("winogrande", 51), ("arc_challenge", 40)):
        for criterion, keys in (("his", {}), ("hies", {"alpha": "auto"})):
            write_run(tmp_path / "exp", criterion, 0, (percent, 40), ratios=(0.0, 0.2), task=task, examples=100, **keys)
    table = table10(load(tmp_path))
    shown = table.shown.set_index(["task", "removed"])["HIS: ours"]
    assert shown["HellaSwag", "20 %"] == "40.00" and shown["average", "20 %"] == ""
    assert "no part of means of quality: WinoGrande" in table.caption
