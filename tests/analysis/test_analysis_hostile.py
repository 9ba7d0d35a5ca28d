"""Rows that somebody else wrote: their texts are shown as they are, and nothing in them ends the analysis."""

import gzip
import io
import lzma
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from analysis_runs import write_run

from analysis import load, load_scores, registry, style
from analysis.cli import main
from analysis.data.diagnosis import diagnosis_file, load_diagnosis
from analysis.errors import Unavailable
from analysis.text.labels import LONGEST_CURVE
from hies.errors import RowsWarning
from hies.runs import folders
from hies.runs.pack import pack

NAMES = (
    r"$\foo$",
    "$$",
    r"a\|b|c",
    "<script>x</script>",
    "![a](http://b)",
    "=1+1",
    "@sum(1)",
    "_^{",
    "m" * 300,
    "ä" * 90,
)


def built(folder: Path, *names: str) -> dict[str, str]:
    """The tables that were written, by name; every one of `names` must be built."""
    assert main([*names, "--results", str(folder), "--out", str(folder / "out")]) == 0
    made = sorted((folder / "out").rglob("*.*"))
    assert {path.name.partition("__")[0] for path in made} == set(names)
    return {path.name: path.read_text() for path in made if path.suffix in (".md", ".csv")}


def write_named(folder: Path, name: str) -> None:
    for place, criterion in enumerate(("his", name)):
        texts = dict.fromkeys(("model", "task", "metric", "unheard_of"), name)
        write_run(folder / "exp", criterion, **texts, name=f"run-{place}")


@pytest.mark.parametrize("name", [r"$\foo$", "$$_^{"])
def test_no_name_is_a_formula_of_a_figure(tmp_path: Path, monkeypatch, capsys, name: str) -> None:
    monkeypatch.setitem(style.RC, "savefig.dpi", 20)  # only to save time
    write_named(tmp_path, name)
    built(tmp_path, "curves")
    assert "cannot be built" not in capsys.readouterr().err


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_no_name_is_a_border_html_a_link_or_a_formula_of_a_table(tmp_path: Path, name: str) -> None:
    write_named(tmp_path, name)
    for file, text in built(tmp_path, "quality").items():
        if file.endswith(".md"):
            lines = text.partition("\n\n")[0].splitlines()
            assert len({line.count("|") for line in lines}) == 1 and not {"<", ">"} & {*text} and "](" not in text
        else:
            cells = pd.read_csv(io.StringIO(text), dtype=str).select_dtypes(["object", "string"]).stack()
            texts = cells[pd.to_numeric(cells, errors="coerce").isna()]
            assert len(texts) and not texts.str.startswith(registry.FORMULA).any()


def test_the_name_of_a_curve_is_short_and_printable_and_still_one_curve_each(tmp_path: Path) -> None:
    for seed, value in enumerate(("x" * 999, "x" * 998, "a\nb", "a\tb")):
        write_run(tmp_path / "exp", "his", seed, unheard_of=value, name=f"run-{seed}")
    curves = load(tmp_path)["curve"].unique()
    assert len(curves) == 4 and all(curve.isprintable() and len(curve) <= LONGEST_CURVE for curve in curves)


@pytest.mark.parametrize("key", ["run", "place", "curve", "runs", "jobs_finished", "quality_his", "flops left", ""])
def test_a_key_of_another_kind_meets_no_column_of_ours(tmp_path: Path, key: str, capsys) -> None:
    for criterion in ("his", "hies"):
        write_run(tmp_path / "exp", criterion, **{key: 1}, name=f"run-{criterion}")
    assert main(["quality", "table9", "--results", str(tmp_path), "--out", str(tmp_path / "out")]) in (0, 1)
    assert load(tmp_path)["ratio"].tolist() == [0, 0.4] * 2 and "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "changes",
    [
        {"flops": "1"},
        {"parameters": [1]},
        {"min_heads_per_layer": {}},
        {"alpha_used": "x"},
        {"quality_norm": [1]},
        {"loss": "0.1"},
        {"loss": True},
        {"loss": -0.5},
        {"token_loss": []},
    ],
)
def test_a_number_that_is_none_is_told(tmp_path: Path, changes: dict) -> None:
    write_run(tmp_path / "exp", "his", **changes, name="run-x")
    with pytest.warns(RowsWarning, match=f"{next(iter(changes))}"):
        assert load(tmp_path).empty


def test_an_output_that_rows_break_ends_no_other(tmp_path: Path, capsys, monkeypatch) -> None:
    write_run(tmp_path / "exp", "his")
    broken = registry.Entry("quality", "table", "", "", registry.OF_MODEL, lambda rows: rows["no\x1b such column"])
    monkeypatch.setitem(registry._ENTRIES, "quality", broken)
    assert main(["quality", "stability", "--results", str(tmp_path), "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr()
    assert "error: quality for exp, tiny cannot be built from these rows (KeyError: 'no" in said.err
    assert "\x1b" not in said.err and "stability__exp__tiny__toy.md" in said.out


def bomb(path: Path | io.BytesIO, size: int = 10**6) -> None:
    np.savez_compressed(path, **dict.fromkeys(("sites", "heads", "scores", "ratios"), np.zeros(size)))


def test_a_file_that_unpacks_to_far_more_than_it_holds_is_not_unpacked(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(folders, "MOST_BYTES", 10**5)
    path = write_run(tmp_path / "exp", "his")
    pack(tmp_path / "exp", tmp_path / "packed" / "exp")
    row = load(tmp_path, "exp").iloc[0]
    bomb(path.with_suffix(".npz"))
    with pytest.raises(Unavailable, match=r"unpacks to more than \d+ MiB"):
        load_scores(row)
    bomb(path.with_name(diagnosis_file("tiny", "toy", 0)))
    with pytest.raises(Unavailable, match="cannot be read"):
        load_diagnosis(row)
    packed = tmp_path / "packed" / "exp" / folders.PACKED_ARRAYS
    sound = packed.read_bytes()
    packed.write_bytes(lzma.compress(bytes(10**6)))
    with pytest.warns(RowsWarning, match=r"arrays\.npz\.xz\) that unpacks to more than \d+ MiB"):
        assert load(tmp_path / "packed").empty
    inside = io.BytesIO()
    bomb(inside)
    packed.write_bytes(lzma.compress(inside.getvalue()))  # small itself, of members that are not
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(load(tmp_path / "packed")) == 2  # they are of no run, and the rows are sound
    packed.write_bytes(sound)
    with gzip.open(tmp_path / "packed" / "exp" / folders.PACKED_ROWS, "at") as file:
        file.write(" " * 10**6)
    with pytest.warns(RowsWarning, match=r"rows\.jsonl\.gz unpacks to more than"):
        assert load(tmp_path / "packed").empty


def test_a_number_of_arrays_together_is_bounded(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(folders, "MOST_BYTES", 10**5)
    monkeypatch.setattr(folders, "MOST_TIMES", 0)
    file = tmp_path / "arrays.npz"
    np.savez_compressed(file, **{f"a{place}": np.zeros(1000) for place in range(13)})
    assert set(folders.read_npz(file, ("a1", "a2"))) == {"a1", "a2"}
    with pytest.raises(folders.BadFile, match="unpacks"):
        folders.read_npz(file)
