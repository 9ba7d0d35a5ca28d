"""Rows on their way to W&B and back, past servers that do not answer; its own client asks a server in this process."""

import http.server
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import warnings
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from analysis_runs import write_run
from command_line import FAST  # noqa: F401
from wandb_stub import ENTITY, PROJECT, Stub

from analysis import cli, load
from experiments import sync
from experiments import wandb as mirrored
from hies.errors import HiesError, RowsWarning
from hies.runs import wandb as wandb_rows

KEY = "0123456789abcdef0123456789abcdef01234567"
MARKER = "marker-of-a-secret-0123456789-0123456789"
NAME = f"{ENTITY}/{PROJECT}"
QUICK = {"WANDB_HTTP_TIMEOUT": "1", "WANDB__GRAPHQL_RETRY_MAX": "1", "WANDB__GRAPHQL_RETRY_WAIT_MIN_SECONDS": "0.1"}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """One for the module: W&B's client keeps the first address that a process gives it."""
    import wandb

    wandb.teardown()
    with Stub() as stub, pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("home")
        for name, value in {"BASE_URL": stub.url, "API_KEY": KEY, "SILENT": "true", "CACHE_DIR": folder}.items():
            patch.setenv(f"WANDB_{name}", str(value))
        patch.setenv("WANDB_MODE", "online")
        yield stub
        wandb.teardown()


@pytest.fixture
def stub(server):
    server.runs.clear()
    server.asked.clear()
    server.refuses.clear()
    yield server
    assert not server.unknown


@pytest.fixture
def started(monkeypatch):
    """The uploads that a test starts, which do not outlive it."""
    processes = []

    def start(command, **options):
        processes.append(popen(command, **options))
        return processes[-1]

    popen = subprocess.Popen
    monkeypatch.setattr(mirrored.subprocess, "Popen", start)
    monkeypatch.setattr(mirrored, "LAST", 0.1)
    yield processes
    for process in processes:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.fixture
def hanging():
    """The address of a server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


@pytest.fixture
def refusing():
    """The address of a server that takes no key."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["content-length"]))
            self.send_error(401)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        threading.Thread(target=listening.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{listening.server_port}"
        listening.shutdown()


def fetched(folder, experiment=None):
    """What `fetch` warned of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", RowsWarning)
        wandb_rows.fetch(NAME, folder, experiment)
    return [str(one.message) for one in caught]


def frame(folder):
    return load(folder).drop(columns="path")


def run_sync(folder, **env):
    """Exit status and what is said, in a process without a key but the given one."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    done = subprocess.run(
        [sys.executable, "-m", "experiments.sync", str(folder)],
        env={**inherited, **QUICK, "NETRC": "/no/such/file", "WANDB_CONFIG_DIR": str(folder), **env},
        cwd=sync.ROOT,
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout + done.stderr


def offline_run(results, name="one"):
    """A folder that looks like a run which waits for its upload."""
    folder = results / "wandb" / f"offline-run-20260102_030405-{name}"
    folder.mkdir(parents=True)
    (folder / f"run-{name}.wandb").write_bytes(b"")
    return folder


def test_the_frame_from_wandb_is_that_of_local_rows(stub, tmp_path, monkeypatch):
    monkeypatch.setattr(wandb_rows, "PAGE", 2)
    here, there = tmp_path / "here", tmp_path / "there"
    for experiment in ("one", "two"):
        for seed in (0, 1, 2):
            path = write_run(here / experiment, "hies", seed=seed, quality=(90.0, 71.3 + seed), alpha=0.1)
            stub.add(f"{experiment}{seed}", {"row_file": path.read_text()}, group=experiment)
    messages = fetched(there)
    pd.testing.assert_frame_equal(frame(there), frame(here))
    assert stub.asked.count("Runs") == 3
    assert len(messages) == 6 and all("scores cannot be had from W&B (none are there)" in text for text in messages)
    fetched(tmp_path / "part", "two")
    assert [folder.name for folder in (tmp_path / "part").iterdir()] == ["two"]


def test_a_run_on_both_sides_counts_once_and_a_difference_is_said(stub, tmp_path):
    same = write_run(tmp_path / "exp", "his", seed=0)
    slower = write_run(tmp_path / "exp", "his", seed=1)
    other = write_run(tmp_path / "exp", "his", seed=2)
    texts = {path: path.read_text() for path in (same, slower, other)}
    stub.add("a", {"row_file": texts[same]})
    stub.add("b", {"row_file": texts[slower].replace('"eval_seconds": 0.1', '"eval_seconds": 7.5')})
    stub.add("c", {"row_file": texts[other].replace('"quality": 80.0', '"quality": 79.0')})
    before = frame(tmp_path)
    messages = fetched(tmp_path)
    assert len(messages) == 1 and str(other) in messages[0] and "the local file is used" in messages[0]
    assert {path: path.read_text() for path in (same, slower, other)} == texts
    pd.testing.assert_frame_equal(frame(tmp_path), before)


def test_rows_of_before_losses_are_not_other_rows(stub, tmp_path):
    older, other = (write_run(tmp_path / "exp", "his", seed=seed, losses=(0.25, 0.5)) for seed in (0, 1))
    texts = {path: path.read_text() for path in (older, other)}
    stub.add("a", {"row_file": texts[older]})
    stub.add("b", {"row_file": texts[other].replace('"loss": 0.5', '"loss": 0.75')})
    older.write_text(texts[older].replace(', "loss": 0.25', "").replace('"loss": 0.5', '"loss": null'))
    assert [str(other) in message for message in fetched(tmp_path)] == [True]


class Mirrored:
    """A run of W&B that keeps what it is given."""

    dir = "/tmp/offline/files"

    def __init__(self):
        self.logged, self.summary = [], {}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def define_metric(self, *_, **__):
        pass

    log_artifact = define_metric

    def log(self, numbers):
        self.logged.append(numbers)


def test_the_curve_of_the_mirror_has_the_losses_that_the_rows_have(tmp_path, monkeypatch):
    run = Mirrored()
    monkeypatch.setattr("wandb.init", lambda **_: run)
    monkeypatch.setattr("wandb.Image", lambda picture: picture)
    path = write_run(tmp_path / "exp", "his", losses=(0.25, None))
    names = SimpleNamespace(name="n")
    config = SimpleNamespace(wandb=SimpleNamespace(project="p"), name="exp", model=names, task=names, criterion=names)
    job = SimpleNamespace(config=config, run_id=path.stem, path=path)
    mirrored._write_offline(job, [json.loads(line) for line in path.read_text().splitlines()], str(tmp_path))
    assert [numbers.get("loss", "nothing") for numbers in run.logged] == [0.25, None, "nothing"]
    assert all("token_loss" not in numbers for numbers in run.logged) and run.logged[1]["quality"] == 80
    assert run.summary == {
        "quality_area_to_40": 85,
        "stability_area_to_40": 90,
    }  # a loss is undefined, 50 % is not there
    assert run.logged[-1].keys() == {"ratio", "heads/scores", "heads/his", "heads/ae"}
    assert min(run.logged[-1]["heads/his"].size) > 150  # pixels: a head is 30 wide


def test_a_heat_map_of_the_mirror_has_layers_heads_and_a_scale():
    axes, bar = mirrored._heat_map(np.arange(5), np.array([2, 3]), "HIS").axes
    drawn = axes.images[0].get_array()
    np.testing.assert_array_equal(drawn.filled(-1), [[0, 1, -1], [2, 3, 4]])  # the first site has two heads
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_title()) == (
        "head",
        "layer",
        "HIS",
    ) and bar.get_yticks().size


def test_the_summary_of_the_mirror_has_the_value_at_one_half_and_areas_that_name_their_width():
    rows = [
        {"ratio": ratio, "quality": quality, "stability": 100.0} for ratio, quality in ((0, 90), (0.3, 60), (0.5, 40))
    ]
    # trapezia by hand: 0.3 * 75 + 0.2 * 50 = 32.5, by the width 0.5
    wanted = {"quality_at_50": 40, "quality_area_to_50": 65, "stability_at_50": 100, "stability_area_to_50": 100}
    assert mirrored.summary_of(rows) == pytest.approx(wanted)
    assert mirrored.summary_of([*rows, {"ratio": 0.7, "quality": None, "stability": 0.0}]).keys() == {
        "quality_at_50", "stability_at_50", "stability_area_to_70",
    }  # fmt: skip
    assert mirrored.summary_of(rows[:1]) == {}


HOSTILE = {
    "path in the run id": lambda row: row | {"run_id": "../../outside"},
    "path in the experiment": lambda row: row | {"experiment": "../outside"},
    "absolute experiment": lambda row: row | {"experiment": "/tmp/outside"},
    "hidden experiment": lambda row: row | {"experiment": ".locks"},
    "folder of other files": lambda row: row | {"experiment": "figures"},
    "longer than a file's name": lambda row: row | {"run_id": "r" * 300},
    "zero byte": lambda row: row | {"run_id": "run\0"},
    "number for a name": lambda row: row | {"run_id": 7},
    "wrong type": lambda row: row | {"ratio": "0"},
    "lacking key": lambda row: {key: value for key, value in row.items() if key != "metric"},
    "not from ratio 0": lambda row: row | {"ratio": 0.5},
    "half a surrogate": lambda row: row | {"command": "\ud800"},
}


def test_hostile_records_are_left_out_and_nothing_leaves_the_folder(stub, tmp_path):
    good = write_run(tmp_path / "made", "his")
    row = json.loads(good.read_text().splitlines()[0])
    for name, spoilt in HOSTILE.items():
        stub.add(name, {"row_file": json.dumps(spoilt(row))})
    for name, text in {"text": "no row", "list": "[]", "nothing": "", "deep": "[" * 9999}.items():
        stub.add(name, {"row_file": text})
    stub.add("number", {"row_file": 3})
    stub.add("none", {})
    stub.add("good", {"row_file": good.read_text()})
    before = sorted(tmp_path.rglob("*"))
    messages = fetched(tmp_path / "results")
    files = {path for path in tmp_path.rglob("*") if path.is_file()} - {*before}
    assert files == {tmp_path / "results" / "made" / good.name}
    left_out = [text for text in messages if "left out" in text]
    counts = [int(text.split("(")[-1].split()[0]) if "such runs" in text else 1 for text in left_out]
    assert sum(counts) == len(HOSTILE) + 6 and not any("Traceback" in text for text in messages)


def test_runs_of_a_packed_experiment_are_not_put_beside_the_pack(stub, tmp_path):
    from analysis.pack import pack

    write_run(tmp_path / "exp", "his", seed=0)
    new = write_run(tmp_path / "else" / "exp", "his", seed=1)
    pack(tmp_path / "exp", tmp_path / "packed" / "exp")
    stub.add("new", {"row_file": new.read_text()})
    assert any("which is packed" in text for text in fetched(tmp_path / "packed"))
    assert len(load(tmp_path / "packed")["seed"].unique()) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--from", "wandb"], ["--project", "ENTITY/NAME"]),
        (["--project", "a/b"], ["--project=a/b", "--from=wandb"]),
        (["--from", "wandb", "--project", "../b/c"], ["--project=../b/c", "ENTITY/NAME"]),
        (["--from", "elsewhere"], ["elsewhere", "local", "wandb"]),
    ],
)
def test_a_mistake_is_one_sentence(arguments, words, tmp_path, capsys):
    assert cli.main([*arguments, "--results", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and all(word in said for word in words)


def test_the_command_line_draws_from_wandb(stub, tmp_path, capsys):
    made = write_run(tmp_path / "made" / "exp", "his")
    stub.add("a", {"row_file": made.read_text()}, group="exp")
    options = ["--project", NAME, "--results", str(tmp_path / "new"), "--out", str(tmp_path / "out")]
    assert cli.main(["quality", "--from", "wandb", "--experiment", "exp", *options]) == 0
    assert f"1 runs of --project={NAME} were not in" in capsys.readouterr().out
    assert list((tmp_path / "out" / "tables").iterdir())
    stub.refuses.add("Runs")
    assert cli.main(["quality", "--from", "wandb", *options]) == 2
    assert "cannot be read from W&B" in capsys.readouterr().err


def test_a_real_run_comes_back_as_it_was(call, stub, tmp_path, monkeypatch):
    for name in ("WANDB_API_KEY", "HF_TOKEN"):
        monkeypatch.setenv(name, MARKER)
    status, err = call("wandb.mode=offline", "criterion=hies", "sparsity.ratios=[0.5]")
    assert status == 0 and "did not take" not in err
    assert call("wandb.mode=offline", "criterion=hies", "calibration.size=5000")[0] == 1
    assert not [path for path in call.results.rglob("*") if path.is_file() and MARKER.encode() in path.read_bytes()]
    (run,) = sync.waiting(call.results)
    assert list(run.glob("run-*.wandb"))
    stub.refuses.add("CreateArtifact")  # wandb sync would call this run uploaded
    address = {"WANDB_BASE_URL": stub.url, "WANDB_API_KEY": KEY}
    status, said = run_sync(call.results, **address)
    assert status == 1 and "did not take 1 runs" in said and sync.waiting(call.results) == [run]
    stub.refuses.clear()
    assert run_sync(call.results, **address) == (0, "1 runs uploaded.\n")
    uploads = stub.asked.count("UpsertBucket")
    status, said = run_sync(call.results, **address)
    assert status == 0 and "No run" in said and stub.asked.count("UpsertBucket") == uploads
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    assert fetched(tmp_path / "fetched") == []
    (rows,) = (call.results / "single").glob("*.jsonl")
    for file in (rows, rows.with_suffix(".npz")):
        assert (tmp_path / "fetched" / "single" / file.name).read_bytes() == file.read_bytes()
    pd.testing.assert_frame_equal(frame(tmp_path / "fetched"), frame(call.results))


def test_a_server_that_hangs_holds_no_job_up(call, hanging, started, monkeypatch):
    for name, value in {**QUICK, "WANDB_BASE_URL": hanging, "WANDB_API_KEY": KEY}.items():
        monkeypatch.setenv(name, value)
    status, err = call("wandb.mode=online", "criterion=his", "sparsity.ratios=[0.5]")
    assert status == 0 and len(started) == 1 and "1 runs in" in err
    assert len(sync.waiting(call.results)) == 1
    call("wandb.mode=offline", "criterion=his", "sparsity.ratios=[0.5]", "force=true")
    (again,) = sync.waiting(call.results)  # the rows of now, not those of before besides
    assert (again / "mirrored.json").read_text() == json.dumps(
        {"project": "hies", "row_file": next(call.results.glob("single/*.jsonl")).relative_to(call.results).as_posix()}
    )
    assert not list((call.results / "wandb").glob(".partial-*"))


def test_no_key_is_said_and_the_runs_stay(tmp_path):
    run = offline_run(tmp_path)
    status, said = run_sync(tmp_path)
    assert status == 1 and "There is no W&B API key" in said and "WANDB_API_KEY" in said
    assert sync.waiting(tmp_path) == [run]


@pytest.mark.parametrize("kind", ["closed", "hanging", "refusing"])
def test_a_server_that_cannot_be_used_is_said_and_the_runs_stay(kind, tmp_path, request):
    address = "http://127.0.0.1:9" if kind == "closed" else request.getfixturevalue(kind)
    run = offline_run(tmp_path)
    status, said = run_sync(tmp_path, WANDB_BASE_URL=address, WANDB_API_KEY=KEY)
    assert status == 1 and said.count("\n") == 1 and "W&B cannot be reached, or does not take this API key" in said
    assert KEY not in said and "1 runs stay in" in said and sync.waiting(tmp_path) == [run]


def test_the_end_does_not_wait_for_what_hangs(tmp_path):
    hangs = "import atexit, runpy, time; atexit.register(time.sleep, 3600)"
    code = f"{hangs}; runpy.run_module('experiments.sync', run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=sync.ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0 and done.stdout.startswith("No run in ") and not done.stderr


def test_a_folder_that_is_not_there_is_said(tmp_path, capsys):
    with pytest.raises(HiesError, match="which is no folder"):
        sync.sync(tmp_path / "none")


class Ended:
    """A process that has ended."""

    def wait(self, timeout):
        return 1


@pytest.fixture
def commands(monkeypatch):
    """Of the uploads that are started; they come to nothing."""
    commands = []

    def start(command, stdout, **_):
        commands.append(command)
        stdout.write(b"error: W&B is away.\n")
        stdout.flush()
        return Ended()

    monkeypatch.setattr(mirrored.subprocess, "Popen", start)
    return commands


def config_of(results, mode="online"):
    return SimpleNamespace(results_dir=str(results), wandb=SimpleNamespace(mode=mode))


def test_an_upload_that_fails_is_said_and_names_no_key(tmp_path, commands, capsys):
    offline_run(tmp_path)
    mirrored.upload(config_of(tmp_path))
    err = capsys.readouterr().err
    assert "W&B is away." in err and "1 runs in" in err
    assert commands == [[sys.executable, "-m", "experiments.sync", str(tmp_path.resolve())]]


@pytest.mark.parametrize(
    ("mode", "variable", "key", "uploads"),
    [
        ("auto", "", True, 1), ("auto", "", False, 0), ("auto", "offline", True, 0), ("auto", "disabled", True, 0),
        ("auto", "dryrun", True, 0), ("auto", "online", False, 1),
        ("offline", "online", True, 0), ("online", "offline", True, 1),
    ],
)  # fmt: skip
def test_without_a_key_or_offline_nothing_is_uploaded(tmp_path, commands, monkeypatch, mode, variable, key, uploads):
    monkeypatch.setattr(mirrored, "_has_key", lambda: key)
    monkeypatch.setenv("WANDB_MODE", variable)
    offline_run(tmp_path)
    mirrored.upload(config_of(tmp_path, mode))
    assert len(commands) == uploads


def test_the_variable_of_wandb_counts_where_no_option_says_otherwise(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(mirrored, "_write", lambda job, rows: written.append(job))
    for variable, mode in (("disabled", "auto"), ("disabled", "offline"), ("", "auto"), ("online", "disabled")):
        monkeypatch.setenv("WANDB_MODE", variable)
        mirrored.mirror(SimpleNamespace(config=config_of(tmp_path, mode)), [])
    assert [job.config.wandb.mode for job in written] == ["offline", "auto"]


def test_nothing_is_started_where_no_run_waits(tmp_path, commands):
    mirrored.upload(config_of(tmp_path))
    assert not commands


def test_a_job_of_two_experiments_has_a_wandb_run_in_each():
    ids = {mirrored._wandb_id(experiment, "run-x-1") for experiment in ("glue", "methods", "g" * 60, "g" * 61)}
    assert len(ids) == 4 and all(len(wandb_id) <= 64 for wandb_id in ids)
