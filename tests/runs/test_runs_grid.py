import json
import warnings

import pytest

from hies.errors import RowsWarning
from hies.runs import grid
from hies.runs.files import failure_path, write_failure


def declaration(run_id, model="tiny"):
    texts = {"run_id": run_id, "model": model, "task": "toy", "criterion": "his", "command": f"run {run_id}"}
    return {**texts, "parameters": {"alpha": 0.5}, "seed": 0}


def declared(folder):
    return [job.run_id for job in grid.read_grid(folder.parent, folder.name)]


def test_a_grid_adds_to_the_grid_that_is_there_and_replaces_what_was_declared_for_its_models(tmp_path):
    folder = tmp_path / "glue"
    grid.write_grid(folder, [declaration("a"), declaration("b", "large")])
    grid.write_grid(folder, [declaration("c")])
    assert declared(folder) == ["a", "b", "c"]
    grid.write_grid(folder, [declaration("d")], replaced={"tiny"})
    assert declared(folder) == ["b", "d"]


def test_a_grid_that_cannot_be_read_is_put_aside(tmp_path):
    (tmp_path / "grid.json").write_text("[")
    with pytest.warns(UserWarning, match="is no list of jobs; it is kept as grid.json.damaged"):
        grid.write_grid(tmp_path, [declaration("a")])
    assert declared(tmp_path) == ["a"]
    assert (tmp_path / "grid.json.damaged").read_text() == "["


def test_a_job_without_rows_is_missing_and_says_whether_it_failed(tmp_path):
    grid.write_grid(tmp_path / "glue", map(declaration, "abc"))
    write_failure(tmp_path / "glue" / "b.jsonl", "It is broken.", "run b")
    finished = [{**declaration("a"), "experiment": "glue"}]
    missing = grid.unfinished_jobs(tmp_path, finished)
    assert [(job.run_id, job.failed) for job in missing] == [("b", True), ("c", False)]
    assert str(missing[0]) == "tiny, toy, his, alpha=0.5, seed 0"


def test_without_a_grid_the_jobs_are_those_that_finished_or_failed(tmp_path):
    write_failure(tmp_path / "glue" / "b.jsonl", "It is broken.", "run b")
    assert failure_path(tmp_path / "glue" / "b.jsonl").exists()
    finished = [{**declaration("a"), "experiment": "glue"}, {**declaration("z"), "experiment": "other"}]
    with warnings.catch_warnings():
        warnings.simplefilter("error", RowsWarning)
        jobs = grid.jobs(tmp_path, "glue", finished)
    assert [(job.run_id, job.failed) for job in jobs] == [("a", False), ("b", True)]
    assert jobs[1].command == "run b"
    failure_path(tmp_path / "glue" / "b.jsonl").write_text("[")
    assert grid.jobs(tmp_path, "glue", finished)[1].command == ""
    assert json.dumps(grid.experiments(tmp_path)) == '["glue"]'


def test_a_newer_declaration_of_a_curve_takes_the_place_of_the_older_one_and_stands_last(tmp_path):
    folder = tmp_path / "glue"
    grid.write_grid(folder, [{**declaration(name), "curve": name[0]} for name in ("a-few", "b-few", "c-few")])
    grid.write_grid(folder, [{**declaration(name), "curve": name[0]} for name in ("b-more", "a-few")])
    assert declared(folder) == ["c-few", "b-more", "a-few"]
