"""The numbers that the pages state are those of the packed rows.

A number of a page stands before a comment that names it: `-0.07 [-0.48, +0.35]<!--claim1-->` is the effect of a finding
(`analysis.findings`), `<!--claim1 without-->` another cell of its line, `<!--glue / HIS / quality / 50-->` a mean over
tasks and draws at 50 %, and `<!--means methods-->` says so of every cell of the table below it.
"""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis import load
from analysis.data import efficiency
from analysis.findings import FINDINGS
from analysis.tables import findings
from analysis.tables.measures import parts_left

ROOT = Path(__file__).parents[1]
REPORTS = ROOT / "reports"
PACKED = REPORTS / "tables" / "findings.csv"
PAGES = {"README.md": "## Findings at a glance", "docs/results.md": "# Results"}  # from this heading on
# Others of their numbers have no key.
KEYED_PAGES = {**PAGES, "reports/smollm2/README.md": "# SmolLM2", "reports/when-entropy/README.md": "# When entropy"}
MEASURED_ELSEWHERE = ("## The embedded tasks", "### Memory")  # whose rows are not packed
KEYED = re.compile(r"([^<|\n]+)<!--([^>]+)-->")
NUMBER = re.compile(r"(?:[+-]?\d+(?:\.\d+)?(?: \[[^\]]+\])?|\[[^\]]+\]|\d+ of \d+)<!--[^>]+-->")
MEANS = re.compile(r"<!--means (\w+)-->\n\n?((?:\|.*\n)+)")
OF_MEANS = ["curve", "criterion", "alpha", "calibration_size", "path", "task", "ratio", "quality", "stability",
            "parameters", "flops", "score_seconds"]  # fmt: skip
SIGN, ALPHA = "alpha", "\N{GREEK SMALL LETTER ALPHA}"


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    others = [load(REPORTS / "small-models", "digit_questions")]
    return pd.concat([findings.load(REPORTS), *others], ignore_index=True)


@pytest.fixture(scope="module")
def lines() -> dict[str, dict[str, str]]:
    """The cells of every finding, by its key and then by their name; that these are right is the last test's."""
    return {row["key"]: cells(row) for row in pd.read_csv(PACKED).to_dict("records")}


def cells(row: dict) -> dict[str, str]:
    texts = findings.effect_texts(row)
    without, _, task = texts["without one task"].partition(" (")
    return {"": texts["effect"], "mean": texts["effect"].partition(" ")[0], "ahead": texts["ahead"], "task": task[:-1],
            "over": texts["over tasks"], "without": without, "verdict": row["verdict"]}  # fmt: skip


def section(page: str) -> str:
    """The part of a page that states results; a heading of the same depth ends it, but for the first of the page."""
    text = (ROOT / page).read_text(encoding="utf-8")
    start = text.index(KEYED_PAGES[page])
    depth = KEYED_PAGES[page].partition(" ")[0]
    end = re.search(rf"^{depth} ", text[start + len(depth) :], flags=re.MULTILINE)
    return text[start : start + len(depth) + end.start()] if end else text[start:]


def mean_of(rows: pd.DataFrame, experiment: str, curve: str, measure: str, percent: str) -> float:
    if experiment == "efficiency":
        measured = efficiency.load(REPORTS)
        at = measured[(measured["model"] == curve) & np.isclose(100 * measured["ratio"], float(percent))]
        return at[f"{measure}_percent"].item()
    there = (rows["experiment"] == experiment) & (rows["curve"] == curve.replace(SIGN, ALPHA))
    used = rows.loc[there, OF_MEANS]
    if measure == "FLOPs":
        used = parts_left(used).rename(columns={"flops": measure}).assign(task="all")
    used = used[np.isclose(100 * used["ratio"], float(percent))]
    return used.groupby("task")[measure].mean().mean()


def expected(key: str, text: str, rows: pd.DataFrame, lines: dict[str, dict[str, str]]) -> str:
    """What a key stands for, with as many digits as the page prints."""
    if " / " in key:
        experiment, _, rest = key.partition(" / ")  # the name of a curve may have a quotient in it
        mean = mean_of(rows, experiment, *rest.rsplit(" / ", 2))
        return f"{mean:.{len(text.rpartition('.')[2])}f}"
    name, _, cell = key.partition(" ")
    return lines[name][cell]


@pytest.mark.parametrize("page", KEYED_PAGES)
def test_every_number_is_that_of_the_rows(page: str, rows: pd.DataFrame, lines: dict[str, dict[str, str]]) -> None:
    found = [match for match in KEYED.finditer(section(page)) if not match[2].startswith("means")]
    assert found
    for text, key in (match.groups() for match in found):
        stated = re.search(r"\S+$", text)[0] if " / " in key else text
        number = expected(key, stated, rows, lines)
        assert re.search(rf"(?<![\d.+-]){re.escape(number)}$", text), f"{page}: {text} is {number} ({key})"


@pytest.mark.parametrize("page", PAGES)
def test_no_number_stands_without_its_key(page: str) -> None:
    text = section(page)
    for heading in MEASURED_ELSEWHERE:
        text = re.sub(rf"^{heading}$.*?(?=^##|\Z)", "", text, flags=re.MULTILINE | re.DOTALL)
    text = NUMBER.sub("", MEANS.sub("", text))
    text = re.sub(r"alpha (?:=|is) 0\.\d+|LLaVA-1\.5", "", text)  # what was set, and names
    assert not re.findall(r".{0,40}\d+\.\d+.{0,20}", text)


@pytest.mark.parametrize("page", [page for page in PAGES if MEANS.search(section(page))])
def test_every_cell_of_a_table_of_means_is_that_of_the_rows(page: str, rows: pd.DataFrame) -> None:
    for experiment, table in MEANS.findall(section(page)):
        head, _, *body = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in table.splitlines()]
        measure, columns = "", []
        for name in head[-len(body[0]) + 1 :]:
            *words, percent, _ = name.split()
            measure = words[0] if words else measure
            columns.append((measure, percent))
        for curve, *numbers in body:
            for (kind, percent), number in zip(columns, numbers, strict=True):
                mean = mean_of(rows, experiment, curve, kind, percent)
                assert number.removesuffix(" %") == f"{mean:.1f}", f"{curve}, {kind}, {percent} %"


def test_what_was_declared_has_a_line_where_its_experiment_has_rows(rows: pd.DataFrame, lines: dict) -> None:
    there = {*rows["experiment"]}  # a name of a curve that no row has would be a finding lost without a word
    assert not [one.key for one in FINDINGS if getattr(one, "experiment", "") in there and one.key not in lines]


def test_the_packed_table_of_findings_is_that_of_the_rows(rows: pd.DataFrame) -> None:
    data = findings.findings(rows)
    packed = PACKED.read_text(encoding="utf-8")
    assert data["key"].is_unique and packed == data.to_csv(index=False, lineterminator="\n", float_format="%.6g")
