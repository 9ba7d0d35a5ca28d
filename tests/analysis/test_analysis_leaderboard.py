"""The leaderboard: who is compared with whom, ranks by hand, and a page that works without a network."""

import base64
import hashlib
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from analysis_runs import command_of, write_grid, write_run

import analysis.page
from analysis import load
from analysis.cli import main
from analysis.errors import Unavailable
from analysis.stats.boards import ranks, unusual_settings
from analysis.stats.intervals import mean_interval
from analysis.tables.leaderboard import leaderboard_table

PNG = b"\x89PNG\r\n\x1a\nand so on"


def runs(folder: Path, criterion: str, *qualities: float, task: str = "toy", at: float = 0.4, **keys) -> None:
    """A run for each seed, of this quality at one pruned ratio."""
    for seed, quality in enumerate(qualities):
        name = f"{criterion}-{task}-{seed}-{at}-{len(list(folder.glob('*.jsonl')))}"
        write_run(folder, criterion, seed, (90.0, quality), ratios=(0.0, at), task=task, name=name, **keys)


def cells(rows: pd.DataFrame, *columns: str) -> list[tuple[str, ...]]:
    return [*leaderboard_table(rows).shown[[*columns]].itertuples(index=False, name=None)]


def test_means_over_tasks_ranges_and_ranks_by_hand(tmp_path: Path) -> None:
    exp = tmp_path / "exp"
    runs(exp, "his", 80, 60, 70, parameters=5)
    runs(exp, "his", 60, 60, 60, task="other")
    runs(exp, "ae", 74, 76, 72)
    runs(exp, "ae", 50, 56, 50, task="other")
    runs(exp, "l2", 40)
    runs(exp, "l2", 40, task="other")
    # HIS: 70, 60, 65 by seed; AE: 62, 66, 61; L2 once. AE is ahead with the second seed alone.
    wanted = [
        ("HIS", "1 [1, 2]", "65.00 [60.00, 70.00]", "3"), ("AE", "2 [1, 2]", "63.00 [61.00, 66.00]", "3"),
        ("L2", "3 [3, 3]", "40.00", "1"),
    ]  # fmt: skip
    assert cells(load(tmp_path), "criterion", "rank by quality", "quality (%)", "draws") == wanted
    assert cells(load(tmp_path), "toy", "other", "removed", "FLOPs left (%)")[0] == ("70.00", "60.00", "40 %", "100.0")
    data = leaderboard_table(load(tmp_path)).data
    assert data[["quality_low", "quality_rank_high"]].iloc[0].tolist() == [60, 2]


def test_columns_of_tasks_are_of_the_draws_of_the_mean(tmp_path: Path) -> None:
    exp = tmp_path / "exp"
    for seed in range(3):  # the last draw is there on one task alone, and the second has no number on the other
        path = write_run(exp, "his", seed, (90, 60 + 10 * seed), task="cola")
        first, second = path.read_text().splitlines()
        cheaper = second.replace('"flops": 10', f'"flops": {10 - seed}')
        path.write_text(f"{first}\n{cheaper}\n")
    for seed, quality in enumerate((50, None)):
        write_run(exp, "his", seed, (90, quality), task="rte")
    columns = ("quality (%)", "CoLA", "RTE", "FLOPs left (%)", "draws")
    assert cells(load(tmp_path), *columns) == [("55.00", "60.00", "50.00", "100.0", "1")]


def test_five_draws_give_an_interval_and_equals_share_a_rank(tmp_path: Path) -> None:
    values = pd.DataFrame([[1.0] * 5, [0, 0, 0, 0, 9], [1.0] * 5, [7, np.nan, np.nan, np.nan, np.nan]], list("abcd"))
    # b is ahead of a wherever its last seed is drawn, in 1 - 0.8^5 = 67 % of the draws, and of d, since means are
    # stretched, where it is drawn three times of five, in 6 %.
    found = ranks(values, better=1)
    assert found["rank"].tolist() == [3, 2, 3, 1]  # means 1, 1.8, 1, 7
    assert found[["low", "high"]].to_numpy().tolist() == [[2, 3], [1, 4], [2, 3], [1, 2]]
    assert ranks(-values, better=-1).equals(found)
    assert ranks(values.iloc[:, :1], better=1)["low"].isna().all()
    for criterion, last in (("his", 100), ("ae", 60)):
        runs(tmp_path / "exp", criterion, 50, 50, 50, 50, last)
    (mean, low, high, _) = mean_interval([50, 50, 50, 50, 100])
    assert cells(load(tmp_path), "quality (%)")[0] == (f"{mean:.2f} [{low:.2f}, {high:.2f}]",)


def test_of_two_equals_one_seldom_wins_alone() -> None:
    drawn = np.random.default_rng(0).normal(size=(300, 2, 5))
    alone = [(ranks(pd.DataFrame(values), 1)["high"] == 1).any() for values in drawn]
    assert np.mean(alone) < 0.08  # a plain bootstrap of five draws: 0.15


def test_the_range_of_ranks_holds_the_rank(tmp_path: Path) -> None:
    values = pd.DataFrame([[4.0, 4, 4], [6, 4, 4], [4, 6, 6]], list("abc"))  # a is second in every draw, third by means
    found = ranks(values, better=1)
    assert found.loc["a"].tolist() == [3, 2, 3] and found.loc["b"].tolist() == [2, 1, 2]


def test_a_loss_stands_beside_and_lower_is_better_where_it_is_asked_for(tmp_path: Path) -> None:
    for criterion, loss in (("his", 0.5), ("ae", 0.25)):
        write_run(tmp_path / "exp", criterion, losses=(0.1, loss))
    assert cells(load(tmp_path), "criterion", "loss (nats)") == [("HIS", "0.500"), ("AE", "0.250")]
    shown = leaderboard_table(load(tmp_path), measures=("loss",)).shown
    assert shown["criterion"].tolist() == ["AE", "HIS"] and shown["rank by loss"].tolist() == ["1", "2"]


@pytest.mark.parametrize("other", [{"checkpoint": "e"}, {"data": "e"}, {"calibration_size": 64}, {"scope": "layer"}])
def test_rows_of_other_settings_are_not_compared(tmp_path: Path, other: dict[str, object]) -> None:
    runs(tmp_path / "exp", "his", 80)
    runs(tmp_path / "exp", "ae", 70)
    runs(tmp_path / "exp", "l2", 99, **other)
    shown = leaderboard_table(load(tmp_path)).shown
    assert shown["rank by quality"].tolist() == ["1", "2", ""]  # L2 stands alone
    ((name, value),) = other.items()
    assert shown["settings"].tolist() == ["", "", f"{name.replace('_', ' ')} {value}"]


def test_settings_that_are_as_frequent_are_all_named(tmp_path: Path) -> None:
    for size in (128, 16):
        runs(tmp_path / "exp", "his", 80, calibration_size=size)
        runs(tmp_path / "exp", "ae", 70, calibration_size=size)
    words = [("calibration size 16", "1"), ("calibration size 16", "2")]
    assert cells(load(tmp_path), "settings", "rank by quality")[:2] == words
    assert set(unusual_settings(load(tmp_path))) == {"calibration size 16", "calibration size 128"}


@pytest.mark.parametrize(
    ("name", "values"),
    [("calibration_size", (32, 128)), ("precision", ("float32", "bfloat16")), ("step", (1, 2)), ("scope", "ab")],
)
def test_tasks_of_unlike_settings_have_no_mean(tmp_path: Path, name: str, values: tuple) -> None:
    for task, value in zip(("cola", "mrpc"), values, strict=True):
        for criterion, quality in (("his", 80), ("ae", 70)):
            runs(tmp_path / "exp", criterion, quality, task=task, **{name: value})
    rows = load(tmp_path)
    assert rows.groupby("task")["curve"].unique().map(set).agg(lambda sets: set.intersection(*sets)) == set()
    found = cells(rows, "settings", "CoLA", "MRPC")
    words = [f"{name.replace('_', ' ')} {value}" for value in sorted(values, key=lambda value: str(value).zfill(9))]
    assert list(dict.fromkeys(settings for settings, *_ in found)) == words
    assert all("" in of_task for _, *of_task in found)  # each board is of one of them


@pytest.mark.parametrize(("name", "values"), [("examples", (50, 100)), ("sites", (["a"], ["b"]))])
def test_tasks_may_have_examples_and_sites_of_their_own(tmp_path: Path, name: str, values: tuple) -> None:
    for task, value in zip(("cola", "mrpc"), values, strict=True):
        runs(tmp_path / "exp", "his", 80, task=task, **{name: value})
        runs(tmp_path / "exp", "ae", 70, task=task, **{name: value})
    assert set(unusual_settings(load(tmp_path))) == {""}


def test_what_lacks_a_task_has_neither_mean_nor_rank_and_is_named(tmp_path: Path) -> None:
    for criterion in ("his", "ae"):
        runs(tmp_path / "exp", criterion, 80, task="rte")
        runs(tmp_path / "exp", criterion, 70, task="cola")
    runs(tmp_path / "exp", "l2", 99, task="rte")
    columns = ("criterion", "rank by quality", "quality (%)", "CoLA", "RTE", "draws")
    assert cells(load(tmp_path), *columns)[2] == ("L2", "", "", "no rows", "99.00", "0")
    assert "No rows: L2 on CoLA." in leaderboard_table(load(tmp_path)).caption


def test_the_mean_over_ratios_is_over_those_that_all_have(tmp_path: Path) -> None:
    for criterion, qualities in (("his", (90, 80, 70, 60)), ("ae", (90, 70, 60, 50))):
        write_run(tmp_path / "exp", criterion, quality=qualities, ratios=(0.0, 0.1, 0.3, 0.5))
    write_run(tmp_path / "exp", "l2", quality=(90, 40, None), ratios=(0.0, 0.1, 0.3))
    shown = leaderboard_table(load(tmp_path)).shown
    assert shown["removed"].unique().tolist() == ["mean of 10 %, 30 %", "10 %", "30 %", "50 %"]
    first = shown[["criterion", "quality (%)", "toy"]].iloc[[0, 1, 2, 8, 11]].to_numpy().tolist()
    assert first == [
        ["HIS", "75.00", "75.00"], ["AE", "65.00", "65.00"], ["L2", "", "undefined"], ["L2", "", "undefined"],
        ["L2", "", "no rows"],
    ]  # fmt: skip
    with pytest.raises(Unavailable, match="unpruned"):
        leaderboard_table(load(tmp_path).query("ratio == 0"))


class Page(HTMLParser):
    """What a page refers to, and its texts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags, self.addresses, self.texts = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.addresses += [value for name, value in attributes if name in ("src", "href", "action", "srcset")]

    def handle_data(self, data):
        self.texts.append(data)


HOSTILE = '<img src="https://elsewhere/x" onerror="alert(1)">'


@pytest.fixture
def reports(tmp_path: Path) -> Path:
    """Two folders with rows, one of them with names that are HTML, and one with a figure alone."""
    for criterion in ("his", "ae"):
        write_run(tmp_path / "one" / "exp", criterion, model="minilm", task="rte")
        write_run(tmp_path / "two" / "exp", criterion, model=HOSTILE, task=HOSTILE, command=HOSTILE)
    write_grid(tmp_path / "one" / "exp", ("l2", 0))
    for place in ("one", "three"):
        (tmp_path / place / "figures").mkdir(parents=True)
        (tmp_path / place / "figures" / "curves_loss__exp__minilm__rte.png").write_bytes(PNG)
    (tmp_path / "one" / "figures" / "broken.png").write_bytes(b"no picture")
    (tmp_path / "one" / "figures" / "x%3Cb%3E__y.png").write_bytes(PNG)
    return tmp_path


def test_the_page_holds_all_and_asks_for_nothing(reports: Path, capsys) -> None:
    assert main(["leaderboard", "--results", str(reports), "--out", str(reports)]) == 0
    path = reports / "leaderboard.html"
    assert f"written: {path}" in capsys.readouterr().out
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    pictures = [one for one in page.addresses if not one.startswith("#")]
    assert pictures == [f"data:image/png;base64,{base64.b64encode(PNG).decode()}"] * 3
    assert page.tags.count("table") == 2 and not {"link", "iframe", "form", "object"} & {*page.tags}
    assert page.tags.count("img") == 3 and page.tags.count("script") == page.tags.count("style") == 1
    assert any(HOSTILE in one for one in page.texts) and "<b>" not in text  # shown as text
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text).group(1).replace("&#39;", "'")
    hashes = {name: re.search(rf"<{name}>(.*?)</{name}>", text, re.DOTALL).group(1) for name in ("style", "script")}
    named = {name: base64.b64encode(hashlib.sha256(one.encode()).digest()).decode() for name, one in hashes.items()}
    assert policy == (
        f"default-src 'none'; img-src data:; style-src 'sha256-{named['style']}'; script-src 'sha256-{named['script']}'"
    )
    assert "one, exp, MiniLM" in page.texts and "exp, MiniLM, RTE, loss" in page.texts
    files = {str(one.relative_to(reports)) for one in reports.rglob("leaderboard__*")}
    assert {f"one/tables/leaderboard__exp__minilm.{end}" for end in ("md", "csv")} <= files and len(files) == 4


def test_missing_jobs_are_on_the_page_with_their_commands(tmp_path: Path) -> None:
    write_grid(tmp_path / "exp", ("his", 0), ("l2", 0))
    write_run(tmp_path / "exp", "his")
    assert main(["leaderboard", "--results", str(tmp_path), "--out", str(tmp_path / "out")]) == 0
    page = Page((tmp_path / "out" / "leaderboard.html").read_text())
    assert "Jobs without rows: 1" in page.texts and f"tiny, toy, l2, seed 0: {command_of('l2', 0)}" in page.texts


def test_figures_alone_make_a_page_and_nothing_at_all_makes_none(reports: Path, capsys) -> None:
    out = reports / "three"
    assert main(["leaderboard", "--results", str(out), "--out", str(out)]) == 0
    assert Page((out / "leaderboard.html").read_text()).tags.count("img") == 1
    (reports / "five").mkdir()
    (reports / "five" / "leaderboard.html").mkdir()
    assert main(["leaderboard", "--results", str(out), "--out", str(reports / "five")]) == 2
    assert f"--out={reports / 'five'} cannot be written to" in capsys.readouterr().err
    shutil.rmtree(out / "figures")
    capsys.readouterr()
    assert main(["leaderboard", "--results", str(out), "--out", str(reports / "four")]) == 2
    assert "holds no rows" in capsys.readouterr().err and not (reports / "four").exists()


@pytest.mark.skipif(shutil.which("node") is None, reason="no node")
def test_columns_are_sorted_by_number_or_by_text_and_what_is_blank_comes_last() -> None:
    columns = {
        "numbers": ["10.5 [9, 12]", "", "9 [1, 2]", "-3", "9 %", "no rows"],
        "texts": ["SliceGPT", "HIS", "", "HIES (2)", "HIES (10)"],
        "mixed": ["30 %", "mean of 10 %, 30 %", "10 %"],
    }
    script = analysis.page.HERE / "page.js"
    code = f"{script.read_text()}\nconst columns = {json.dumps(columns)};\n" + (
        "console.log(JSON.stringify(Object.values(columns).map((one) => [orderOf(one, false), orderOf(one, true)])));"
    )
    done = subprocess.run(["node", "-e", code], capture_output=True, text=True, check=True, timeout=60)
    numbers, texts, mixed = json.loads(done.stdout)
    assert numbers == [[3, 2, 4, 0, 1, 5], [0, 2, 4, 3, 1, 5]]  # equals keep their order
    assert texts == [[3, 4, 1, 0, 2], [0, 1, 4, 3, 2]]
    assert mixed == [[2, 0, 1], [1, 0, 2]]
