"""Tables and figures of methods that cut different things: names, lines of the paper, what is really left."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from analysis_runs import write_run

from analysis import load
from analysis.errors import Unavailable
from analysis.figures.methods import draw_methods
from analysis.tables.measures import parts_left, percent_of_dense, removed_table
from analysis.tables.paper import table1, table2
from analysis.text.labels import label

SLICED = {"tune": False, "damping": 0.01}
BLOCK = {"taylor": "first", "reduction": "sum", "local": True, "keep_first": None, "keep_last": 1}


def frame(folder: Path) -> pd.DataFrame:
    """Two tasks, two criteria: FLOPs of the unpruned model 1,000, and less with the ratio."""
    for task, shift in (("sst2", 0), ("cola", 10)):
        for criterion, knobs in (("his", {}), ("slicegpt", SLICED)):
            quality = (90 - shift, 80 - shift, 60 - shift)
            write_run(folder / "methods", criterion, 0, quality, ratios=(0.0, 0.1, 0.5), task=task, **knobs)
    rows = load(folder)
    cut = rows["ratio"] * rows["criterion"].map({"his": 200, "slicegpt": 800})
    return rows.assign(flops=1000 - cut, parameters=500 - cut / 2, score_seconds=1 + rows["ratio"])


def test_methods_are_named_as_in_the_paper_and_knobs_show_only_off_their_default() -> None:
    assert label("slicegpt", SLICED) == "SliceGPT (w/o tune)"
    tuned = {
        "tune_epochs": 2,
        "tune_learning_rate": 1e-3,
        "tune_rank": 16,
        "tune_examples": 6000,
        "tune_batch_size": 32,
    }
    assert label("slicegpt", {**SLICED, "tune": True, **tuned}) == "SliceGPT (w/ tune)"
    assert label("slicegpt", {**SLICED, "damping": 0.1}) == "SliceGPT (damping = 0.1, w/o tune)"
    assert label("llm_pruner_block", BLOCK) == "LLM-Pruner (Block)"
    assert label("llm_pruner_block", {**BLOCK, "taylor": "mixed", "local": False}) == (
        "LLM-Pruner (Block) (local = False, taylor = mixed)"
    )
    assert label("llm_pruner_channel", {"taylor": "first", "reduction": "sum"}) == "LLM-Pruner (Channel)"


def test_the_papers_numbers_stand_beside_those_of_every_method(tmp_path: Path) -> None:
    for criterion, knobs in (("slicegpt", SLICED), ("slicegpt", {**SLICED, "tune": True}), ("llm_pruner_block", BLOCK)):
        write_run(tmp_path / "methods", criterion, 0, (90, 81, 71), ratios=(0.0, 0.1, 0.3), task="sst2", **knobs)
    rows = load(tmp_path)
    shown = table1(rows).shown
    for curve in ("SliceGPT (w/o tune)", "SliceGPT (w/ tune)", "LLM-Pruner (Block)"):
        part = shown[(shown["criterion"] == curve) & (shown["removed"] == "10 %")]
        assert part["numbers"].tolist() == ["paper", "ours"] and part["SST-2"].tolist()[1] == "81.00"
    table = table2(rows)
    block = table.data.query("criterion == 'LLM-Pruner (Block)' and task == 'sst2' and ratio == 0.1").iloc[0]
    assert np.isfinite(block["paper"]) and "one line LLM-Pruner" in table.caption


def test_what_is_left_is_in_percent_of_the_unpruned_model(tmp_path: Path) -> None:
    data = parts_left(frame(tmp_path))
    assert data["curve"].tolist() == ["HIS", "SliceGPT (w/o tune)"] * 2
    assert data["flops"].round(6).tolist() == [98, 92, 90, 60]
    assert data["parameters"].round(6).tolist() == [98, 92, 90, 60]
    assert data["seconds"].round(6).tolist() == [1.1, 1.1, 1.5, 1.5]
    assert removed_table(frame(tmp_path)).shown["FLOPs left"].tolist() == ["98.0 %", "92.0 %", "90.0 %", "60.0 %"]


def test_rows_without_a_cost_have_no_line(tmp_path: Path) -> None:
    rows = frame(tmp_path)
    with pytest.raises(Unavailable, match="parameters and FLOPs"):
        removed_table(rows.assign(flops=None))
    with pytest.raises(Unavailable, match="FLOPs"):
        draw_methods(rows.assign(flops=None))
    with pytest.raises(Unavailable, match="two criteria"):
        draw_methods(rows[rows["criterion"] == "his"])


def test_the_figure_has_the_mean_over_tasks_at_the_flops_that_are_left(tmp_path: Path) -> None:
    rows = frame(tmp_path)
    left = percent_of_dense(rows, "flops")
    assert left[rows["criterion"] == "slicegpt"].unique().tolist() == [100, 92, 60]
    quality, by_cost, stability, _ = draw_methods(rows)
    drawn = {tuple(line.get_xdata().round(6)): line.get_ydata().tolist() for line in by_cost.get_lines()}
    assert drawn == {(100.0, 98.0, 90.0): [85, 75, 55], (100.0, 92.0, 60.0): [85, 75, 55]}
    assert quality.get_ylabel() == "quality (%)" and stability.get_ylabel() == "stability (%)"
