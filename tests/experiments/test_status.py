"""How far a sweep is, as `experiments.status` says it, on a real small sweep; and a sweep of several processes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import output_that_nobody_reads

from experiments import run, status
from experiments.status import expected_seconds, in_words, seconds_of
from hies.runs import files as results

ROOT = Path(__file__).parents[2]
TINY = ["model=vit_tiny", "task=digits", "model.finetune.epochs=1", "model.finetune.batch_size=250",
        "model.architecture.num_hidden_layers=1", "model.architecture.hidden_size=16", "task.max_examples=31",
        "wandb.mode=disabled", "sparsity.ratios=[0.5]"]  # fmt: skip


@pytest.fixture
def call(cache, tmp_path, monkeypatch, capsys):
    """Run a command of the package with results of its own; gives (exit status, standard output)."""

    def call(command, *words):
        folders = [f"results_dir={tmp_path}/results", f"cache_dir={cache}"]
        monkeypatch.setattr("sys.argv", ["command", "-m", *TINY, *folders, *words])
        exit_status = command.main()
        return exit_status, capsys.readouterr().out

    call.folder = tmp_path / "results" / "single"
    return call


def test_every_job_is_counted_as_what_it_is(call, monkeypatch):
    call(run, "criterion=random,l2", "seed=0,1,2")
    first, *_, last = sorted(call.folder.glob("run-*.jsonl"))
    results.write_failure(first, "out of\x1b[31m luck.", "command")
    first.unlink()
    last.write_text(last.read_text()[:-9])
    monkeypatch.setattr(status.Job, "lock_is_held", lambda job: "-l2-s5" in job.run_id)
    exit_status, out = call(status, "criterion=random,l2", "seed=0,1,2,5")
    lines = out.splitlines()
    assert exit_status == 0
    assert lines[0].split() == ["model", "task", "random", "l2"]
    cells = [cell.strip() for cell in lines[2].split("  ") if cell.strip()]
    assert cells == ["vit_tiny", "digits", "2/4, 1 damaged", "2/4, 1 running, 1 failed"]
    assert "4 of 8 jobs finished, 1 running, 1 failed, 1 damaged, 1 missing" in lines[3]
    (failed,) = (line for line in lines if line.startswith("failed: "))
    assert "out of?[31m luck." in failed and "criterion=l2 seed=0]" in failed
    (damaged,) = (line for line in lines if line.startswith("damaged: "))
    assert last.name in damaged and "criterion=random seed=2]" in damaged
    assert "To do the rest: python -m experiments.run -m " in out and "Time left: less than a minute" in out


def test_nothing_is_written_and_no_time_is_made_up_where_nothing_is_there(call):
    exit_status, out = call(status, "criterion=random,l2")
    assert exit_status == 0 and "0 of 2 jobs finished, 2 missing" in out and "Time left" not in out
    assert not call.folder.exists()


def test_a_finished_sweep_needs_nothing_and_a_held_lock_is_a_running_job(call):
    call(run, "criterion=random")
    out = call(status, "criterion=random")[1]
    assert "1 of 1 jobs finished; rows are in" in out and "To do" not in out and "Time left" not in out
    (path,) = call.folder.glob("run-*.jsonl")
    path.unlink()
    code = "import filelock, sys; lock = filelock.FileLock(sys.argv[1]); lock.acquire(); print(flush=True); input()"
    lock = str(call.folder / ".locks" / path.stem)
    with subprocess.Popen([sys.executable, "-c", code, lock], stdin=-1, stdout=-1) as holder:
        holder.stdout.readline()
        held = call(status, "criterion=random")[1]
        holder.communicate(b"\n")
    assert "0/1, 1 running" in held and "1 running" not in call(status, "criterion=random")[1]


def timed(score, *evaluations):
    return [{"score_seconds": score, "eval_seconds": seconds} for seconds in evaluations]


def test_time_left_is_that_of_the_nearest_kind():
    assert expected_seconds([("m", "t", "his")], []) is None
    done = [
        (("m", "t", "his"), 13.0),
        (("m", "t", "his"), 23.0),
        (("m", "t", "l2"), 3.0),
        (("m", "other", "l2"), 101.0),
    ]
    assert expected_seconds([("m", "t", "his")], done) == 18
    assert expected_seconds([("m", "t", "ae")], done) == 13
    assert expected_seconds([("n", "t", "ae"), ("m", "t", "l2")], done) == 35 + 3


def test_a_calibration_pass_that_rows_share_counts_once_and_each_pruning_for_itself():
    assert seconds_of(timed(5.0, 1, 1, 1)) == 8
    assert seconds_of([*timed(0.0, 1), *timed(4.0, 1), *timed(6.0, 1)]) == 13


def test_a_device_that_is_none_is_refused_as_a_run_does(call):
    assert call(status, "criterion=random", "device=cuda:1")[0] == 0  # of another machine, perhaps
    assert call(status, "criterion=random", "device=foo") == (2, "")


def test_a_reader_that_leaves_is_no_error(call, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdout", output_that_nobody_reads())
    assert call(status, "criterion=random")[0] == 141 and not capsys.readouterr().err


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(59, "less than a minute"), (61, "about 1 min"), (12000, "about 3 h 20 min"), (100 * 3600, "about 4 d 4 h")],
)
def test_times_in_words(seconds, words):
    assert in_words(seconds) == words


def test_processes_side_by_side_compute_everything_once_and_lose_no_row():
    command = [sys.executable, "-m", "benchmarks.sweep_together", "--processes", "2", "--criteria", "his,ae"]
    done = subprocess.run([*command, "--seeds", "0,1"], cwd=ROOT, capture_output=True, text=True, env={**os.environ})
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Rows: 12 of 12." in done.stdout


def test_the_comparison_of_sweeps_can_fail(tmp_path):
    from benchmarks.sweeps import differences

    for name, value in (("one", 1), ("other", 2)):
        folder = tmp_path / name / "single"
        folder.mkdir(parents=True)
        (folder / "grid.json").write_text("{}")
        for run_id, quality in (("run-a", 1), ("run-b", value)):
            row = {"quality": quality, "eval_seconds": value, "revision": name, "digest": name}
            (folder / f"{run_id}.jsonl").write_text(json.dumps(row))
    assert differences(tmp_path / "one", tmp_path / "other") == ["single/run-b.jsonl"]
    (tmp_path / "one" / "single" / "run-a.jsonl").unlink()
    assert differences(tmp_path / "one", tmp_path / "other") == ["single/run-a.jsonl", "single/run-b.jsonl"]
