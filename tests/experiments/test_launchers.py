"""The same sweep in one process, in several, and on a cluster; processes that end early, and GPUs that are shared."""

import contextlib
import json
import multiprocessing
import os
import signal
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import submitit
import torch
from command_line import FAST, composing, declared, launcher_of, rows_of, without_times
from joblib.externals.loky import get_reusable_executor
from omegaconf import OmegaConf

from experiments.config import store
from experiments.config.messages import CONF
from experiments.sweep import devices, launch, worker
from experiments.sweep import job as job_module
from hies.errors import HiesError

SWEEP = ["-m", "criterion=his,random", "seed=0,1", "sparsity.ratios=[0.5]"]
JOBLIB = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]


@pytest.fixture(scope="module")
def expected(cache, tmp_path_factory):
    """Run id -> rows of the sweep in this process, less what differs from folder to folder."""
    results = tmp_path_factory.mktemp("results")
    with pytest.MonkeyPatch.context() as patch:
        words = ["-m", *FAST, f"results_dir={results}", f"cache_dir={cache}", *SWEEP[1:]]
        patch.setattr("sys.argv", ["run", *words])
        assert launch_run() == 0
    return by_run(results)


def launch_run():
    from experiments import run

    return run.main()


def by_run(results):
    rows = {path.stem: path.read_text() for path in results.rglob("*.jsonl")}
    return {
        name: without_times(map(json.loads, text.replace(str(results), "RESULTS").splitlines()))
        for name, text in rows.items()
    }


def workers():
    """The processes that joblib has started."""
    found = []
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if "popen_loky" in " ".join(child.cmdline()) and child.status() != psutil.STATUS_ZOMBIE:
                found.append(child)
    return found


def at_work(results):
    """joblib's processes once one of them is at a job."""
    return list(results.rglob(".locks/*")) and workers()


@contextlib.contextmanager
def once(condition, act):
    """Do something to another process, once, as soon as a condition holds."""
    left = threading.Event()

    def watch():
        while not left.wait(0.02):
            if found := condition():
                return act(found)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        left.set()
        thread.join()


@pytest.fixture
def workers_end():
    """joblib's workers outlive the sweep that starts them."""
    yield
    get_reusable_executor(max_workers=1).shutdown(wait=True, kill_workers=True)


@pytest.mark.slow
def test_a_killed_worker_loses_nothing_and_ctrl_c_ends_the_others(call, expected, workers_end, tmp_path):
    """Both in one test, since each worker takes seconds to start: the second sweep has those of the first."""
    with once(lambda: at_work(call.results), lambda found: found[0].kill()):
        status, err = call(*SWEEP, *JOBLIB)
    assert status == 0 and "A worker process ended early" in err and "launched again" in err
    assert by_run(call.results) == expected
    assert all("launcher" not in row["command"] for row in rows_of(call.results))

    def interrupt(_):
        os.kill(os.getpid(), signal.SIGINT)

    again = tmp_path / "again"
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    try:
        with once(lambda: at_work(again), interrupt):
            status, err = call(*SWEEP, *JOBLIB, f"results_dir={again}")
    finally:
        signal.signal(signal.SIGINT, before)
    assert status == 130 and "goes on from there" in err and "Traceback" not in err
    assert not workers() and not list(again.rglob("*.failed.json"))


@pytest.mark.slow
def test_a_job_of_submitit_that_is_killed_is_named_and_the_rest_is_done(call, expected, monkeypatch):
    monkeypatch.setattr(submitit.Job, "_results_timeout_s", 1)
    quick = SimpleNamespace(time=time.time, sleep=lambda seconds: time.sleep(seconds / 20))  # between two looks
    monkeypatch.setattr(submitit.core.core, "_time", quick)

    def first():
        for child in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if "submitit.core._submit" in " ".join(child.cmdline()):
                    return child

    with once(first, lambda child: child.kill()):
        status, err = call("-m", "criterion=his", "seed=0,1", "sparsity.ratios=[0.5]", "hydra/launcher=submitit_local")
    assert status == 1 and "ended early" in err and "_log.err" in err and "Traceback" not in err
    (done,) = by_run(call.results).items()
    assert done[1] == expected[done[0]]
    (missing,) = {name for name in expected if "-his-" in name} - {done[0]}
    assert f"seed={missing.split('-')[-2][1:]}" in err.split("ended without rows")[1]
    assert not list(call.results.glob("*/*.pkl")), "what submitit leaves is in a hidden folder"


def test_an_unknown_launcher_is_named_with_those_there_are(call):
    status, err = call("criterion=his", "hydra/launcher=jolib")
    assert status == 2 and "hydra/launcher=jolib is not known; did you mean joblib?" in err
    assert all(name in err for name in store.LAUNCHERS)
    assert {path.stem for path in (CONF / "hydra" / "launcher").glob("*.yaml")} == {*store.LAUNCHERS}


@pytest.mark.parametrize("name, extra", [("joblib", "parallel"), ("submitit_slurm", "slurm")])
def test_a_launcher_that_is_not_installed_is_named_with_its_extra(call, monkeypatch, name, extra):
    monkeypatch.setattr(launch, "find_spec", lambda package: None)
    status, err = call("criterion=his", f"hydra/launcher={name}")
    assert status == 2 and f"pip install -e '.[{extra}]'" in err and repr(name) in err
    assert not list(call.results.rglob("*.jsonl"))


def put(folder, name, text):
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """A cluster on which every job runs out of time; gives the folder of its commands."""
    folder = tmp_path / "bin"
    folder.mkdir()
    put(folder, "srun", "exit 1")
    put(folder, "sbatch", f'cp "$1" {tmp_path}/submitted.sh; echo Submitted batch job 77')
    put(folder, "sacct", 'echo "JobID|State|NodeList"; for i in 77 77_0 77_1 77_2 77_3; do echo "$i|TIMEOUT|n1"; done')
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    monkeypatch.setattr(submitit.Job, "_results_timeout_s", 0)
    monkeypatch.setattr(submitit.SlurmJob, "watcher", type(submitit.SlurmJob.watcher)(delay_s=0))
    return folder


def test_slurm_jobs_ask_for_the_resources_and_those_that_run_out_of_time_are_named(call, slurm, tmp_path):
    asked = ["resources.gpus=1", "resources.cpus=3", "resources.memory_gb=7", "resources.minutes=11"]
    own = ["hydra/launcher=submitit_slurm", "hydra.launcher.array_parallelism=2", "hydra.launcher.partition=long"]
    status, err = call(*SWEEP, *asked, *own)
    flags = {line.removeprefix("#SBATCH --") for line in (tmp_path / "submitted.sh").read_text().splitlines()}
    expected = {"gpus-per-node=1", "cpus-per-task=3", "mem=7GB", "time=11", "partition=long", "array=0-3%2"}
    assert flags >= expected | {"job-name=hies-single"}
    assert status == 1 and "Traceback" not in err
    assert [f"Job 77_{i} ended early" in err for i in range(4)] == [True] * 4
    assert err.count("ended without rows") == 4


def test_arrays_are_no_longer_than_asked_for(call, slurm, tmp_path, monkeypatch):
    call(*SWEEP, "hydra/launcher=submitit_slurm", "hydra.sweeper.max_batch_size=3")
    assert "--array" not in (tmp_path / "submitted.sh").read_text()  # the fourth job, alone


def test_a_cluster_that_refuses_is_said_in_a_sentence(call, slurm):
    put(slurm, "sbatch", "echo sbatch: error: invalid partition specified: nope >&2; exit 1")
    status, err = call(*SWEEP, "hydra/launcher=submitit_slurm", "hydra.launcher.partition=nope")
    assert status == 2 and "invalid partition specified: nope" in err and "Traceback" not in err
    (slurm / "srun").unlink()
    status, err = call(*SWEEP, "hydra/launcher=submitit_slurm")
    assert status == 2 and "hydra/launcher=submitit_slurm cannot start jobs" in err and "srun" in err


def test_resources_are_checked_and_change_no_run_id(call):
    for wrong in ("gpus=0", "cpus=0", "memory_gb=-1", "minutes=0"):
        status, err = call("criterion=his", f"resources.{wrong}")
        assert status == 2 and f"resources.{wrong.replace('=', ' is ')}; it must be at least 1" in err
    with composing():
        plain, asking = (declared(*FAST, *more, multirun=False).jobs[0] for more in ([], ["resources.gpus=1"]))
    assert plain.run_id == asking.run_id


def test_an_experiment_of_large_models_asks_for_a_gpu():
    with composing():
        for name in ("language_models", "language_calibration", "vision", "vision_language"):
            config = launcher_of(f"experiment={name}", "hydra/launcher=submitit_slurm").config
            node = OmegaConf.to_container(config.hydra.launcher, resolve=True)
            assert node["gpus_per_node"] == 1 and node["timeout_min"] == config.resources.minutes
            assert node["submitit_folder"] == f"results/{name}/.submitit/%j"
        node = launcher_of("experiment=quickstart", "hydra/launcher=submitit_slurm").config.hydra.launcher
        assert node.gpus_per_node is None


def test_joblib_takes_a_process_a_gpu_or_half_of_the_cores(monkeypatch):
    monkeypatch.setattr(devices, "cpu_count", lambda: 12)

    def processes(gpus, *overrides):
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        launcher = launcher_of("hydra/launcher=joblib", *overrides)
        return launcher.config.hydra.launcher.n_jobs, launcher.here

    with composing():
        assert processes(0) == (6, False)
        assert processes(3) == (3, False)
        assert processes(3, "device=cpu") == (6, False)
        assert processes(3, "device=cuda:1") == (1, True)
        assert processes(3, "hydra.launcher.n_jobs=5") == (5, False)


@dataclass(frozen=True)
class Stand:
    """As much of a job as a launcher looks at."""

    run_id: str
    folder: Path
    config: SimpleNamespace

    @property
    def path(self):
        return self.folder / f"{self.run_id}.jsonl"

    @property
    def finished(self):
        return self.path.exists()

    written = job_module.Job.written
    left_something_since = job_module.Job.left_something_since


@pytest.fixture
def deadly(tmp_path, monkeypatch):
    """A launcher that does two jobs at a time and dies of the one that is called `kills`."""
    with composing():
        launcher = launcher_of()
    given = []

    def launch_two_at_a_time(jobs):
        given.append([job.run_id for job in jobs])
        for start in range(0, len(jobs), 2):
            if any(job.run_id == "kills" for job in jobs[start : start + 2]):
                raise launch.BrokenProcessPool
            for job in jobs[start : start + 2]:
                job.path.write_text("rows\n")
        return False

    monkeypatch.setattr(launcher, "_launch_once", launch_two_at_a_time)
    launcher.given = given
    launcher.jobs = [Stand(name, tmp_path, SimpleNamespace(force=False)) for name in ("a", "b", "kills", "c", "d")]
    return launcher


def test_a_job_that_kills_every_worker_costs_none_of_the_others(deadly, capsys):
    deadly.launch(deadly.jobs)
    assert deadly.given == [["a", "b", "kills", "c", "d"], ["d", "c", "kills"], ["kills"], ["kills"]]
    assert [job.run_id for job in deadly.jobs if not job.finished] == ["kills"]
    said = capsys.readouterr().err
    assert said.count("ended early") == 4 and "3 jobs are launched again" in said and "1 jobs are left undone" in said


def test_older_rows_that_a_killed_worker_did_not_replace_are_an_error(deadly):
    jobs = [replace(job, config=SimpleNamespace(force=True)) for job in deadly.jobs]
    for job in jobs:
        job.path.write_text("older rows\n")
        os.utime(job.path, (1, 1))
    with pytest.raises(HiesError, match=r"1 of 5 jobs were not computed again .*those of kills"):
        deadly.launch(jobs)


def test_a_failure_of_an_earlier_sweep_is_no_end(deadly):
    job_module.results.failure_path(deadly.jobs[4].path).write_text("{}")
    deadly.launch(deadly.jobs)
    assert deadly.jobs[4].finished


def test_gpus_are_given_out_in_rounds(tmp_path):
    folder = tmp_path / "claims"
    held = len(devices._held)
    try:
        assert [devices.claim("abc", folder) for _ in range(7)] == [0, 1, 2, 0, 1, 2, 0]
        devices._held.pop(held + 1).release()
        assert [devices.claim("abc", folder) for _ in range(2)] == [1, 1]
        assert devices.claim("xb", folder) == 0  # a process that sees others of the GPUs
    finally:
        for lock in devices._held[held:]:
            lock.release()
        del devices._held[held:]
    assert folder.stat().st_mode & 0o077 == 0


def test_a_gpu_is_free_when_the_process_that_claimed_it_has_ended(tmp_path):
    fork = multiprocessing.get_context("fork")
    claimed = fork.Queue()
    other = fork.Process(target=claim_and_wait, args=(tmp_path / "claims", claimed))
    other.start()
    assert claimed.get(timeout=60) == 0
    held = len(devices._held)
    try:
        assert devices.claim("ab", tmp_path / "claims") == 1
        os.kill(other.pid, signal.SIGKILL)
        other.join()
        assert devices.claim("ab", tmp_path / "claims") == 0
    finally:
        del devices._held[held:]


def claim_and_wait(folder, claimed):
    claimed.put(devices.claim("ab", folder))
    time.sleep(60)


def test_a_worker_ends_with_its_command(tmp_path, monkeypatch):
    monkeypatch.setattr(worker, "PARENT_EVERY", 0.02)
    fork = multiprocessing.get_context("fork")
    ids = fork.Queue()
    command = fork.Process(target=start_a_worker, args=(fork, ids))
    command.start()
    child = psutil.Process(ids.get(timeout=60))
    assert child.is_running()
    os.kill(command.pid, signal.SIGKILL)
    command.join()
    with contextlib.suppress(psutil.NoSuchProcess):
        for _ in range(3000):
            if child.status() == psutil.STATUS_ZOMBIE:
                return
            time.sleep(0.02)
        raise AssertionError("it goes on without its command")


def start_a_worker(fork, ids):
    fork.Process(target=be_a_worker, args=(os.getpid(), ids)).start()
    time.sleep(60)


def be_a_worker(command, ids):
    worker.end_with(command)
    ids.put(os.getpid())
    time.sleep(60)


@pytest.mark.parametrize(
    "gpus, variable, device", [(0, None, "cpu"), (1, "5", "cuda"), (3, None, "cuda:0"), (2, "4, 7", "cuda:0")]
)
def test_the_device_of_a_process_is_claimed_where_there_are_several(gpus, variable, device, tmp_path, monkeypatch):
    chosen = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(devices.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(devices, "_held", [])
    if variable is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", variable)
    devices.own_device.cache_clear()
    try:
        assert devices.own_device() == devices.own_device() == device
    finally:
        devices.own_device.cache_clear()
    names = [path.name for folder in tmp_path.glob("hies-gpus-*") for path in folder.iterdir()]
    assert names == {0: [], 1: [], 3: ["0.0"], 2: ["4.0"]}[gpus] and chosen == [0] * (gpus > 1)
