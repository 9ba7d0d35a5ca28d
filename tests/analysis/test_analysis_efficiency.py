"""Measurements beside the rows of jobs: read, drawn and told, and never taken for jobs."""

import json
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from analysis_runs import write_run
from transformers import BertConfig, BertForSequenceClassification

from analysis import style
from analysis.cli import main
from analysis.data import efficiency, rows
from analysis.errors import Unavailable
from analysis.figures.efficiency import COST_LOOKS, draw_efficiency
from analysis.tables.costs import costs_table
from benchmarks import coverage, scoring
from hies.errors import RowsWarning
from hies.runs import grid

RATIOS = (0.0, 0.1, 0.5)


def write_measurements(
    results: Path, model: str = "minilm", ratios: tuple[float, ...] = RATIOS, cache: bool = False, **keys: Any
) -> Path:
    """A model of 100 heads, whose measures fall by different shares of the ratio."""
    lines = [
        {
            "schema": 1, "model": model, "architecture": "llama" if cache else "bert", "device": "cpu", "threads": 1,
            "batch": 8, "tokens": 128, "rounds": 15, "ratio": ratio, "heads_total": 100,
            "heads_removed": round(100 * ratio), "seconds": 0.2, "latency": 1 - ratio / 5,
            "latency_low": 0.9 - ratio / 5, "latency_high": 1.3 - ratio / 5, "flops": 5e9 * (1 - ratio / 4),
            "parameters": 3e6 * (1 - ratio / 10), "peak_bytes": 7e6 * (1 - ratio / 2),
            "cache_bytes": 2e6 * (1 - ratio) if cache else None, **keys,
        }
        for ratio in ratios
    ]  # fmt: skip
    path = results / "efficiency" / f"{model}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def test_measures_are_percentages_of_the_dense_model_of_the_same_file(tmp_path: Path) -> None:
    write_measurements(tmp_path, "llama", cache=True)
    write_measurements(tmp_path, "minilm", ratios=(0.0, 0.5), flops=1e9)
    found = efficiency.load(tmp_path)
    assert found["model"].tolist() == ["llama"] * 3 + ["minilm"] * 2
    at_half = found[found["ratio"] == 0.5]
    np.testing.assert_allclose(at_half["flops_percent"], [87.5, 100])
    np.testing.assert_allclose(at_half["latency_percent"], [90, 90])
    np.testing.assert_allclose(at_half["latency_high_percent"], [120, 120])
    np.testing.assert_allclose(at_half["peak_bytes_percent"], [75, 75])
    np.testing.assert_allclose(at_half["cache_bytes_percent"], [50, np.nan])


def test_only_their_own_experiment_has_measurements(tmp_path: Path) -> None:
    write_measurements(tmp_path)
    assert len(efficiency.load(tmp_path, "efficiency")) == 3
    assert efficiency.load(tmp_path, "glue").empty and efficiency.load(tmp_path / "nowhere").empty


def test_measurements_are_no_jobs(tmp_path: Path) -> None:
    write_run(tmp_path / "exp", "his")
    write_measurements(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert grid.experiments(tmp_path) == ["exp"]
        assert rows.load(tmp_path)["experiment"].unique().tolist() == ["exp"]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text[:-20],
        lambda text: "",
        lambda text: text.replace('"schema": 1', '"schema": 2'),
        lambda text: text.replace('"latency"', '"speed"'),
        lambda text: text.replace('"device": "cpu"', '"device": null'),
        lambda text: text.replace('"ratio": 0.0', '"ratio": 0.2'),
        lambda text: "[1]\n" + text,
    ],
)
def test_a_file_that_cannot_be_trusted_is_named_and_left_out(tmp_path: Path, spoil) -> None:
    path = write_measurements(tmp_path, "bad")
    path.write_text(spoil(path.read_text()))
    write_measurements(tmp_path, "good")
    with pytest.warns(RowsWarning, match=r"bad\.jsonl"):
        assert efficiency.load(tmp_path)["model"].unique().tolist() == ["good"]


def test_the_figure_has_a_panel_for_each_model_and_a_line_for_each_measure(tmp_path: Path) -> None:
    write_measurements(tmp_path, "minilm")
    write_measurements(tmp_path, "llama", cache=True)
    llama, minilm = draw_efficiency(efficiency.load(tmp_path))
    drawn = [{line.get_label(): line.get_xydata().tolist() for line in axes.get_lines()} for axes in (llama, minilm)]
    assert drawn[0].keys() == {"FLOPs", "latency", "parameters", "peak memory", "key/value cache"}
    np.testing.assert_allclose(drawn[0]["key/value cache"], [[0, 100], [10, 90], [50, 50]])
    np.testing.assert_allclose(drawn[1]["FLOPs"], [[0, 100], [10, 97.5], [50, 87.5]])
    np.testing.assert_allclose(drawn[1]["FLOPs, the paper's TinyBERT"], [[10, 96], [50, 80]])
    assert "key/value cache" not in drawn[1] and "FLOPs, the paper's TinyBERT" not in drawn[0]
    band = {tuple(np.round(point, 6)) for point in minilm.collections[0].get_paths()[0].vertices}
    assert {(50.0, 80.0), (50.0, 120.0)} <= band
    assert minilm.get_title(loc="left") == "MiniLM: 8 x 128 tokens"
    assert "median of 15 rounds" in minilm.figure.get_supxlabel().replace("\n", " ")


def test_the_measures_differ_in_colour_and_marker_and_in_colours_of_the_house() -> None:
    palette = {color for color, _ in style.LOOKS.values()}
    assert {look["color"] for look in COST_LOOKS.values()} <= palette
    assert (
        len({look["color"] for look in COST_LOOKS.values()})
        == len({look["marker"] for look in COST_LOOKS.values()})
        == 5
    )


def test_the_table_says_how_far_latency_is_from_its_promise(tmp_path: Path) -> None:
    write_measurements(tmp_path)
    table = costs_table(efficiency.load(tmp_path))
    dense, tenth, half = table.shown.to_dict("records")
    assert (dense["FLOPs"], dense["latency"], dense["parameters"]) == ("5.0 G", "200 ms", "3.0 M")
    assert (half["FLOPs"], half["latency"], half["gap"]) == ("87.5", "90.0 [80.0, 120.0]", "+2.9")
    assert (tenth["FLOPs, the paper's TinyBERT"], half["FLOPs, the paper's TinyBERT"], half["key/value cache"]) == (
        "96.0",
        "80.0",
        "",
    )
    assert table.data.loc[2, "gap_percent"] == pytest.approx(100 * (0.9 / 0.875 - 1))
    assert "minilm: 8 x 128 tokens, 1 thread" in table.caption


@pytest.mark.parametrize("make", [draw_efficiency, costs_table])
def test_a_dense_model_alone_is_nothing_to_compare(tmp_path: Path, make) -> None:
    write_measurements(tmp_path, ratios=(0.0,))
    with pytest.raises(Unavailable, match="only measurements of dense"):
        make(efficiency.load(tmp_path))


def test_the_command_draws_measurements_without_any_job(tmp_path: Path, capsys) -> None:
    write_measurements(tmp_path)
    assert main(["efficiency", "costs", "--results", str(tmp_path), "--out", str(tmp_path)]) == 0
    names = {f"{path.parent.name}/{path.name}" for path in tmp_path.rglob("*__cpu.*")}
    ends = {"figures/efficiency": ("png", "pdf"), "tables/costs": ("md", "csv")}
    assert names == {f"{stem}__cpu.{end}" for stem, kinds in ends.items() for end in kinds}
    assert "jobs finished" not in capsys.readouterr().out


def test_the_command_draws_both_kinds_and_names_what_is_lacking(tmp_path: Path, capsys) -> None:
    write_run(tmp_path / "exp", "his")
    assert main(["quality", "efficiency", "--results", str(tmp_path), "--out", str(tmp_path)]) == 0
    assert "not built: efficiency: it needs measurements, which `make efficiency`" in capsys.readouterr().out
    write_measurements(tmp_path)
    assert main(["quality", "costs", "--results", str(tmp_path), "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "costs__cpu.md" in printed and "quality__exp__tiny__toy.md" in printed
    assert "exp: 1 of 1 jobs finished" in printed


def test_without_measurements_the_command_says_what_makes_them(tmp_path: Path, capsys) -> None:
    assert main(["efficiency", "--results", str(tmp_path)]) == 2
    told = capsys.readouterr().err
    assert "NAME=efficiency" in told and "make efficiency" in told and told.count("\n") == 1


def test_times_of_scoring_are_rows_and_a_table(tmp_path: Path, monkeypatch, capsys) -> None:
    tiny = BertConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, max_position_embeddings=16
    )
    monkeypatch.setattr(scoring, "minilm", lambda: BertForSequenceClassification(tiny).eval())
    scoring.main(["--texts", "3", "--tokens", "7", "--rounds", "3", "--out", str(tmp_path)])
    written = [json.loads(text) for text in (tmp_path / "scoring" / "minilm.jsonl").read_text().splitlines()]
    assert {row["threads"] for row in written} == {torch.get_num_threads()} and grid.experiments(tmp_path) == []
    found = efficiency.load_scoring(tmp_path).set_index("way")
    assert found["passes"]["one forward pass"] == found["training_steps"]["one training step"] == 1
    assert (found["passes_low"] <= found["passes"]).all() and (found["passes"] <= found["passes_high"]).all()
    assert main(["scoring", "--results", str(tmp_path), "--out", str(tmp_path)]) == 0
    text = (tmp_path / "tables" / "scoring__cpu.md").read_text()
    assert "HIS and AE, exact per example" in text and "3 texts of 7 tokens" in text
    (tmp_path / "scoring" / "bad.jsonl").write_text(json.dumps({**written[0], "passes": "two"}))
    with pytest.warns(RowsWarning, match=r"bad\.jsonl"):
        assert len(efficiency.load_scoring(tmp_path)) == len(written)


@pytest.mark.parametrize("word", ["--texts=0", "--tokens=1", "--rounds=0", "--out={}"])
def test_scoring_is_not_timed_for_options_that_do_not_work(word: str, tmp_path: Path, capsys) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit):
        scoring.main([word.format(tmp_path / "file")])
    assert re.search(
        r"--\w+=\S+ does not work( \(File exists\))?; (give \d+ to \d+|name a folder)\.\n$", capsys.readouterr().err
    )


def test_no_coverage_is_of_no_repetitions(monkeypatch, capsys) -> None:
    monkeypatch.setattr("sys.argv", ["coverage", "--repetitions=0"])
    with pytest.raises(SystemExit):
        coverage.main()
    assert capsys.readouterr().err.endswith("--repetitions=0 does not work; give 1 or more.\n")
