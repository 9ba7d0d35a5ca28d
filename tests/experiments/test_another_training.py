"""A checkpoint that is trained again may come out different: what the cache keeps of the one before is not shown."""

import os
import shutil

import pytest
from command_line import FAST, rows_of, without_times

from experiments import run
from experiments.sweep import job as job_module
from hies.storage import CHECKPOINT, read_arrays, write_arrays

pytestmark = pytest.mark.usefixtures("new_process")

SWEEP = [*FAST, "model.finetune.batch_size=250", "criterion=hies/auto"]
COMPUTED = ("statistics", "predictions", "losses")


def sweep(folder, monkeypatch, ratios, *options):
    job_module._evaluators.clear()
    shutil.rmtree(folder / "results", ignore_errors=True)
    folders = [f"results_dir={folder}/results", f"cache_dir={folder}/cache"]
    monkeypatch.setattr("sys.argv", ["run", *SWEEP, f"sparsity.ratios={ratios}", *options, *folders])
    assert run.main() == 0
    rows = without_times(rows_of(folder / "results"))
    return [{key: value for key, value in row.items() if key not in ("command", "revision")} for row in rows]


def checkpoint_of(folder):
    (checkpoint,) = (file for file in (folder / "cache" / "checkpoints").iterdir() if file.is_dir())
    return checkpoint


def forget_checkpoints(folder):
    """Leaves the arrays of a cache as they were before they named a checkpoint, at the times that they have."""
    for path in (folder / "cache").rglob("*.npz"):
        times = path.stat()
        arrays = read_arrays(path)
        del arrays[CHECKPOINT]
        write_arrays(path, arrays)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


@pytest.mark.parametrize("named", [True, False])
def test_rows_are_of_the_checkpoint_that_they_name(named, tmp_path, monkeypatch):
    other, mine, empty = (tmp_path / name for name in ("other", "mine", "empty"))
    sweep(other, monkeypatch, [0.25], "model.finetune.seed=7")
    before = sweep(mine, monkeypatch, [0.25, 0.5])
    if not named:
        forget_checkpoints(mine)
    # All of another training, checksums and times as well, which are before those of what was computed.
    shutil.copytree(checkpoint_of(other), checkpoint_of(mine), dirs_exist_ok=True)
    shutil.copytree(mine, empty)
    for kind in COMPUTED:
        shutil.rmtree(empty / "cache" / kind, ignore_errors=True)
    found, expected = (sweep(folder, monkeypatch, [0.25, 0.5, 0.75]) for folder in (mine, empty))
    assert found == expected
    assert all(one["checkpoint"] != two["checkpoint"] for one, two in zip(before, found, strict=False))
    assert [row["stability"] for row in before] != [row["stability"] for row in found[: len(before)]]


@pytest.mark.parametrize("named", [True, False])
def test_what_is_newer_than_its_checkpoint_is_kept(named, tmp_path, monkeypatch):
    before = sweep(tmp_path, monkeypatch, [0.25, 0.5])
    if not named:
        forget_checkpoints(tmp_path)
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.npz")}
    assert sweep(tmp_path, monkeypatch, [0.25, 0.5]) == before
    assert len(times) >= 4 and all(path.stat().st_mtime_ns == time for path, time in times.items())
