"""What goes wrong in a sweep: said in a sentence, left in a record, never averaged in, not the end of the rest."""

import errno
import json
import multiprocessing
import shlex
import threading

import filelock
import numpy as np
import pytest
import torch
from command_line import FAST, rows_of, without_times  # noqa: F401

from experiments.sweep import job as job_module
from experiments.sweep import launch, worker
from hies import storage as cache_module
from hies.batch_size import BatchSize, is_out_of_memory
from hies.errors import HiesError
from hies.evaluation import checkpoints
from hies.evaluation import evaluator as evaluator_module
from hies.progress import ProgressBar
from hies.storage import KEY, SUMS, cached, cached_arrays, check_checksums, read_arrays, remove_partials, write_arrays
from hies.tasks import classifier

SWEEP = ["-m", "criterion=his,random,l2", "sparsity.ratios=[0.5]"]


pytestmark = pytest.mark.usefixtures("new_process")


def failing(monkeypatch, error, criterion="random"):
    """Make every job of one criterion raise."""
    run = job_module.Job.run

    def fails(job, *arguments):
        if job.config.criterion.name == criterion:
            raise error
        return run(job, *arguments)

    monkeypatch.setattr(job_module.Job, "run", fails)


@pytest.mark.parametrize("error", [HiesError("It cannot be."), RuntimeError("shape mismatch"), ZeroDivisionError()])
def test_a_job_that_raises_leaves_a_record_and_the_sweep_goes_on(call, monkeypatch, error):
    with monkeypatch.context() as patch:
        failing(patch, error)
        status, err = call(*SWEEP)
    (record,) = (json.loads(path.read_text()) for path in call.results.rglob("*.failed.json"))
    assert status == 1 and len(list(call.results.rglob("*.jsonl"))) == 2
    assert f"[{record['command']}]" in err and record["error"] in err and "Traceback" not in err
    assert ("traceback" in record) == (not isinstance(error, HiesError))
    arguments = shlex.split(record["command"].removeprefix("python -m experiments.run "))
    status, _ = call(*arguments, fast=False)
    assert status == 0 and not list(call.results.rglob("*.failed.json"))
    assert len(list(call.results.rglob("*.jsonl"))) == 3


def test_a_failure_record_does_not_hold_a_secret(call, monkeypatch):
    monkeypatch.setenv("SOME_API_KEY", "verysecret1")
    with monkeypatch.context() as patch:
        failing(patch, RuntimeError("401 for https://host/?key=verysecret1"))
        _, err = call(*SWEEP)
    (path,) = call.results.rglob("*.failed.json")
    assert "verysecret1" not in path.read_text() + err and "***" in path.read_text()


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("No space left on device")]
)
def test_a_full_disk_ends_the_sweep_with_a_sentence_and_keeps_what_is_finished(call, monkeypatch, error):
    write = job_module.results.write_run

    def full(path, *arguments):
        if "-his-" not in path.name:
            raise error
        write(path, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(job_module.results, "write_run", full)
        status, err = call(*SWEEP)
    assert status == 2 and "No space left on device" in err and "make room" in err
    assert [path.name.split("-")[3] for path in call.results.rglob("*.jsonl")] == ["his"]
    monkeypatch.setattr(worker, "_stopped", [])
    status, err = call(*SWEEP)
    assert status == 0 and "2 of 3 jobs to do" in err


def test_a_results_folder_that_takes_no_files_is_named(call, tmp_path):
    (tmp_path / "file").write_text("")
    status, err = call("criterion=his", f"results_dir={tmp_path}/file")
    assert status == 2 and f"{tmp_path}/file" in err and "Traceback" not in err


DAMAGES = {
    "cut off": lambda text: text[: len(text) // 2],
    "a line less": lambda text: "".join(text.splitlines(keepends=True)[:-1]),
    "a number changed": lambda text: text.replace('"stability": 100.0', '"stability": 99.5', 1),
    "empty": lambda text: "",
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_row_file_is_named_put_aside_and_computed_again(call, kind):
    call("criterion=his", "sparsity.ratios=[0.5]")
    (path,) = call.results.rglob("*.jsonl")
    before, damaged = path.read_text(), DAMAGES[kind](path.read_text())
    path.write_text(damaged)
    status, err = call("criterion=his", "sparsity.ratios=[0.5]")
    assert status == 0 and str(path) in err and "computed again" in err
    assert without_times(map(json.loads, path.read_text().splitlines())) == without_times(
        map(json.loads, before.splitlines())
    )
    assert path.with_name(f"{path.name}.damaged").read_text() == damaged


@pytest.fixture
def other_process(monkeypatch):
    """Starts a process that holds the lock of a job until this one has found it taken, and may write rows then.

    Gives what is set when it was found taken.
    """
    fork, compute = multiprocessing.get_context("fork"), launch.compute
    ready, taken, processes = fork.Event(), fork.Event(), []

    def noted(job):
        outcome = compute(job)
        if outcome == worker.TAKEN:
            taken.set()
        return outcome

    def start(lock, path, text=""):
        processes.append(fork.Process(target=_finish_later, args=(lock, path, text, ready, taken)))
        processes[0].start()
        assert ready.wait(30)
        return taken

    monkeypatch.setattr(launch, "compute", noted)
    yield start
    taken.set()
    for process in processes:
        process.join()


def _finish_later(lock_file, path, text, ready, taken):
    with filelock.FileLock(lock_file):
        ready.set()
        taken.wait(60)
        if text:
            path.write_text(text)


def test_a_job_that_another_process_is_at_is_waited_for_and_not_done_twice(call, monkeypatch, other_process):
    run, started = job_module.Job.run, []
    monkeypatch.setattr(job_module.Job, "run", lambda job, *given: started.append(job) or run(job, *given))
    call("criterion=his", "sparsity.ratios=[0.5]")
    (path,) = call.results.rglob("*.jsonl")
    text = path.read_text()
    path.unlink()
    taken, said = other_process(started[0].lock.lock_file, path, text), []
    monkeypatch.setattr(ProgressBar, "set_description", lambda bar, words: said.append(words))
    status, _ = call("criterion=his", "sparsity.ratios=[0.5]")
    assert status == 0 and taken.is_set() and len(started) == 1 and path.read_text() == text
    assert said == ["waits for another process at digits his seed 0", ""]


@pytest.mark.parametrize("force", ["force=false", "force=true"])
def test_a_job_that_another_process_gave_up_is_done_after_all(call, other_process, force):
    call("criterion=his", "sparsity.ratios=[0.5]")
    (path,) = call.results.rglob("*.jsonl")
    before = path.stat().st_mtime_ns
    if force == "force=false":
        path.unlink()
    taken = other_process(next(file for file in call.results.rglob(".locks/*")), path)
    status, _ = call("criterion=his", "sparsity.ratios=[0.5]", force)
    assert status == 0 and taken.is_set() and path.stat().st_mtime_ns > before


def test_out_of_memory_halves_the_batch_and_changes_no_result(call, monkeypatch):
    call("criterion=hies", "sparsity.ratios=[0.5]", "model.batch_size=64")
    before = rows_of(call.results)
    job_module._evaluators.clear()
    sizes = []

    def limited(work, limit):
        def run(model, examples, size, *rest):
            sizes.append(size)
            if size > limit:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            return work(model, examples, size, *rest)

        return run

    monkeypatch.setattr(classifier, "predict", limited(classifier.predict, 20))
    status, err = call("criterion=hies", "sparsity.ratios=[0.5]", "model.batch_size=64", "force=true")
    assert status == 0 and "the batch is 16" in err and sizes == [64, 32, 16, 16]
    keys = [{key: value for key, value in row.items() if key != "command"} for row in rows_of(call.results)]
    assert without_times(keys) == without_times([{k: v for k, v in row.items() if k != "command"} for row in before])


def test_a_single_example_that_does_not_fit_is_an_error_and_other_errors_pass():
    def never(size):
        raise MemoryError

    with pytest.warns(UserWarning), pytest.raises(HiesError, match="single example"):
        BatchSize(5).retry_on_oom(never)
    with pytest.raises(RuntimeError, match="shape"):
        BatchSize(5).retry_on_oom(lambda size: (_ for _ in ()).throw(RuntimeError("shape")))
    assert is_out_of_memory(RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"))
    assert not is_out_of_memory(ValueError("out of memory"))


def test_the_calibration_set_is_cut_smaller_too(call, monkeypatch):
    call("criterion=his", "sparsity.ratios=[0.5]", "model.batch_size=32")
    before = read_arrays(next(call.results.rglob("*.npz")))
    job_module._evaluators.clear()
    collect, sizes = evaluator_module.collect, []

    def limited(model, batches, *arguments, **options):
        sizes.append(len(batches))
        if len(batches) < 4:
            raise RuntimeError("CUDA out of memory")
        return collect(model, batches, *arguments, **options)

    monkeypatch.setattr(evaluator_module, "collect", limited)
    _, err = call("criterion=his", "sparsity.ratios=[0.5]", "model.batch_size=32", "force=true")
    assert "Out of memory" in err
    after = read_arrays(next(call.results.rglob("*.npz")))
    assert sizes == [1, 2, 4]
    np.testing.assert_allclose(after["his"], before["his"], rtol=1e-5)


def test_training_that_does_not_fit_names_its_batch_size(call, monkeypatch, tmp_path):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(checkpoints, "finetune", full)
    status, err = call("criterion=his", f"cache_dir={tmp_path}/cache")
    assert status == 1 and "model.finetune.batch_size" in err
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.suffix == ".partial"]


def test_weights_with_a_flipped_bit_are_made_again(call, tmp_path):
    words = "criterion=his", "sparsity.ratios=[0.5]", "model.finetune.batch_size=250", f"cache_dir={tmp_path}/cache"
    call(*words)
    before = rows_of(call.results)
    (weights,) = (tmp_path / "cache").rglob("model.safetensors")
    content = bytearray(weights.read_bytes())
    content[-1000] ^= 0x40
    weights.write_bytes(content)
    job_module._evaluators.clear()
    status, err = call(*words, "force=true")
    assert status == 0 and "model.safetensors" in err and "made again" in err
    assert without_times(rows_of(call.results))[0]["checkpoint"] == before[0]["checkpoint"]


def test_checksums_name_the_file_that_was_changed(tmp_path):
    check_checksums(tmp_path)  # nothing was recorded
    (tmp_path / SUMS).write_text("0" * 64 + "  ../outside.safetensors\n")
    with pytest.raises(ValueError, match=r"outside\.safetensors"):
        check_checksums(tmp_path)


def test_an_array_file_under_the_name_of_another_is_made_again(tmp_path):
    for name in ("one", "two"):
        cached_arrays(tmp_path / f"{name}.npz", lambda name=name: {"x": np.array([len(name), ord(name[0])])})
    (tmp_path / "one.npz").write_bytes((tmp_path / "two.npz").read_bytes())
    with pytest.warns(UserWarning, match="written as 'two'"):
        found = cached_arrays(tmp_path / "one.npz", lambda: {"x": np.array([7])})
    assert found["x"].tolist() == [7] and KEY not in found
    write_arrays(tmp_path / "older.npz", {"x": np.array([3])})  # written before names were kept
    assert cached_arrays(tmp_path / "older.npz", dict)["x"].tolist() == [3]


def test_what_one_process_reads_another_does_not_renew_meanwhile(tmp_path):
    path = tmp_path / "a.npz"
    renewing = threading.Thread(
        target=cached, args=(path, lambda: {"x": np.ones(1)}, write_arrays, read_arrays), kwargs={"fresh": True}
    )

    def read(file):
        renewing.start()
        renewing.join(0.1)
        return read_arrays(file)

    assert cached(path, lambda: {"x": np.zeros(1)}, write_arrays, read)["x"] == [0]
    renewing.join()
    assert read_arrays(path)["x"] == [1]


def test_what_a_killed_process_left_is_removed(tmp_path):
    (tmp_path / ".a.npz.123.partial").write_text("half")
    (tmp_path / ".a.npz.124.partial").mkdir()
    (tmp_path / ".ab.npz.123.partial").write_text("another's")
    cached_arrays(tmp_path / "a.npz", lambda: {"x": np.zeros(1)})
    assert sorted(path.name for path in tmp_path.glob(".*partial")) == [".ab.npz.123.partial"]
    remove_partials(tmp_path / "ab.npz")
    assert not list(tmp_path.glob(".*partial"))


def test_a_name_of_a_configuration_is_no_path():
    assert cache_module.safe_filename("../../org/a model:1") == ".._.._org_a_model_1"
