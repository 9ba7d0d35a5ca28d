"""The command for a GPU, run whole on tiny shapes, and what keeps its files when a part fails, lasts or hangs."""

import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import checks
import pytest
import torch
from tiny_models import make, some_heads
from torch.utils._python_dispatch import TorchDispatchMode

import hies
from benchmarks.gpu import __main__ as command
from benchmarks.gpu import core, llama, scoring
from benchmarks.gpu.machine import Machine
from benchmarks.gpu.report import Report, limit
from hies.heads import masking
from hies.scoring import calibration_pass

ROOT = Path(__file__).parents[1]
CPU = torch.device("cpu")
ABSENT = ("hydra", "omegaconf", "wandb", "datasets", "pandas", "sklearn", "scipy", "tabulate", "matplotlib", "pytest")


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The rows by part and the page of a run without the packages that a bare machine lacks."""
    folder = tmp_path_factory.mktemp("gpu")
    code = f"import sys; sys.modules.update(dict.fromkeys({ABSENT})); from benchmarks.gpu.__main__ import main; "
    code += f"sys.exit(main(['--out', {str(folder)!r}, '--shapes', 'tiny', '--device', 'cpu', '--minutes', '2']))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = {}
    for line in (folder / "gpu.jsonl").read_text().splitlines():
        row = json.loads(line)
        rows.setdefault(row["part"], []).append(row)
    return rows, (folder / "gpu.md").read_text()


def measured(page, part):
    return [row for row in page[0][part] if "kind" in row]


def test_every_part_runs_whole_without_the_packages_of_the_benchmark(page):
    rows, text = page
    assert {part: own[-1]["state"] for part, own in rows.items() if part != "machine"} == dict.fromkeys(
        command.SHARES, "whole"
    )
    assert rows["machine"][0]["torch"] == torch.__version__
    assert "Tiny shapes or no GPU" in text and "left out, scikit-learn" in text


def test_every_check_of_the_core_holds(page):
    rows = [row for row in measured(page, "core") if "error" in row]
    assert len(rows) > 30 and {row["holds"] for row in rows} == {"yes"}
    assert {row["dtype"] for row in rows} == {"float32", "bfloat16"}


def test_what_is_estimated_is_what_is_measured(page):
    """Of operations on the CPU: the memory of all layers follows from that of two and three, counted without data."""
    of = {kind: {r["way"]: r for r in measured(page, "scoring") if r["kind"] == kind and r["tokens"] == 16}
          for kind in ("measured", "estimated")}  # fmt: skip
    assert len(of["estimated"]) == 3
    for way, row in of["estimated"].items():
        assert row["peak_bytes"] == pytest.approx(of["measured"][way]["peak_bytes"], rel=0.02)
        assert of["measured"][way]["forward passes"] > 1


def test_whole_groups_shrink_the_cache_and_flops_promise_less_than_everything(page):
    rows = {(row["key heads"], row["removed"]): row for row in measured(page, "pruned")}
    assert len(rows) == 3
    for (key_heads, removed), row in rows.items():
        assert 1 < row["FLOPs promise"] < 2 and row["decoding tokens/s"] > 0
        share = row["cache_bytes"] / row["dense cache_bytes"]
        assert share == pytest.approx(0.5, abs=0.13) if "group" in removed or key_heads == 8 else share > 0.5


def test_classifiers_run_eager_and_compiled(page):
    rows = measured(page, "classifiers")
    ways = {(row["model"], row["runs"]) for row in rows if row.get("examples/s", 0) > 0}
    assert ways == {(model, runs) for model in ("bert", "vit") for runs in ("eager", "compiled")}


# --- checks of the core that the command leaves out on tiny shapes, or that must fail ---


@pytest.mark.parametrize("name", core.MODELS)
def test_the_core_holds_in_float16(name):
    outcomes = (*core.his_and_ae(name, CPU, torch.float16), *core.masked_pruned_reloaded(name, CPU, torch.float16))
    assert all(error <= most for error, most in outcomes)


def test_a_wrong_score_is_seen_and_a_check_that_raises_is_a_failed_one(monkeypatch):
    original = core.hies.collect

    def wrong(*arguments, **options):
        found = original(*arguments, **options)
        for values in found["ae"].values():
            values[:, 0] += 1e-3
        return found

    monkeypatch.setattr(core.hies, "collect", wrong)
    (his, his_limit), (ae, ae_limit) = core.his_and_ae("bert", CPU, torch.float32)
    assert his <= his_limit and ae > ae_limit
    rows = list(core._rows(("one", "other"), "bert", torch.float32, lambda: 1 / 0))
    assert [row["check"] for row in rows] == ["one", "other"]
    (line,) = core.limits(rows)
    assert line["holds"] == "**no**" and "ZeroDivisionError" in rows[0]["holds"]


class OnOneDevice(TorchDispatchMode):
    """Operations on tensors without data, which fail where a tensor of the CPU comes in; what is read off them is 0."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is torch.ops.aten._local_scalar_dense.default:
            return False
        if func is torch.ops.aten._to_copy.default and args[0].is_meta and "device" in kwargs:
            kwargs = {**kwargs, "device": "meta"}
        return func(*args, **kwargs)


@pytest.mark.parametrize("name", ["bert", "llama_grouped", "gemma2", "t5", "vit", "whisper"])
def test_no_tensor_is_made_on_another_device_than_the_models(name, monkeypatch):
    monkeypatch.setattr(calibration_pass, "parts_of", lambda model, batch, loss: [batch])  # reads numbers
    for module in (calibration_pass, masking):  # the meta device stands for a card, not for weights elsewhere
        monkeypatch.setattr(module, "check_weights_are_here", lambda *args, **options: None)
    model, batch = make(name).eval(), checks.inputs_of(name, dtype=torch.float32)
    removed = some_heads(hies.find_sites(model, batch), "a layer")
    model, batch = model.to("meta"), {key: tensor.to("meta") for key, tensor in batch.items()}
    with OnOneDevice():
        need = ("his", "ae", "ae:min", "output_norm")
        hies.collect(model, [batch], need, lambda outputs, batch: checks.answers(outputs, batch).flatten(1).mean(1))
        with hies.masked(model, removed):
            model(**batch)
        assert checks.answers(hies.prune(model, removed)(**batch), batch).is_meta


# --- time, failures, files ---


@pytest.fixture
def clock(monkeypatch):
    """The seconds that the command sees, which pass only where a test lets them."""
    now = SimpleNamespace(seconds=0.0, monotonic=lambda: now.seconds)
    monkeypatch.setattr(command, "time", now)
    return now


@pytest.fixture
def stage(monkeypatch, tmp_path, clock):
    """Runs parts made of plain functions for some seconds; returns the report, with the status if one hung."""

    def run(seconds, **parts):
        modules = {
            f"benchmarks.gpu.{name}": SimpleNamespace(measure=measure, limits=lambda rows: iter(()), __doc__=name)
            for name, measure in parts.items()
        }
        monkeypatch.setattr(command.importlib, "import_module", modules.__getitem__)
        monkeypatch.setattr(command, "SHARES", dict.fromkeys(parts, 1))
        report, left = Report(tmp_path, {"shapes": "tiny"}), []
        machine = SimpleNamespace(release=lambda: None)
        failed = command.run(machine, report, parts, seconds, left.append)
        return failed, left, {part.name: part for part in report.parts}, (tmp_path / "gpu.md").read_text()

    return run


def test_a_part_that_fails_leaves_a_line_and_its_rows_and_the_next_goes_on(stage):
    def failing(machine):
        yield {"value": 1.5}
        raise RuntimeError("CUDA error: an illegal access\nand a trace")

    failed, left, parts, text = stage(20, first=failing, second=lambda machine: iter([{"value": 7}]))
    assert failed and not left
    assert parts["first"].state == "failed, RuntimeError: CUDA error: an illegal access"
    assert parts["second"].state == "whole" and "| measured | 1.5 |" in text and "| measured | 7 |" in text


def test_a_part_at_its_limit_is_stopped_between_measurements_and_leaves_time_to_the_next(stage, clock):
    closed = []

    def endless(machine):
        try:
            while True:
                clock.seconds += 7
                yield {"value": 1}
        finally:
            closed.append(clock.seconds)

    failed, left, parts, _ = stage(100, first=endless, second=lambda machine: iter([{"value": 7}]))
    assert not failed and not left
    assert parts["first"].state == "stopped at its time limit" and closed == [49]  # half of 95 % of the time
    assert parts["second"].state == "whole"


def test_a_measurement_that_does_not_end_is_cut_after_what_there_is_is_written(stage, monkeypatch, tmp_path):
    monkeypatch.setattr(command, "PATIENCE", 0.1)
    cut = threading.Event()

    def hanging(machine):
        yield {"value": 1}
        deadline = time.monotonic() + 5
        while "did not end" not in (tmp_path / "gpu.md").read_text() and time.monotonic() < deadline:
            time.sleep(0.01)
        cut.set()

    _, left, _, _ = stage(0.4, first=hanging)
    assert cut.is_set() and left == [2]
    states = [json.loads(line).get("state") for line in (tmp_path / "gpu.jsonl").read_text().splitlines()]
    assert any(states)


def test_what_does_not_fit_the_card_is_said_and_the_rest_is_measured(monkeypatch):
    original = hies.collect

    def collect(model, batches, checkpoint=False):
        if not checkpoint:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(model, batches, checkpoint=True)

    monkeypatch.setattr(scoring.hies, "collect", collect)
    model, batch = llama.build("cpu", **llama.TINY), llama.text("cpu", 97, 5)
    rows = [{"kind": "measured", **row} for row in scoring._measured(Machine(CPU, True), model, batch)]
    assert [row.get("note") for row in rows] == [None, None, "does not fit this card"]
    holds = {line["what"]: line["holds"] for line in scoring.limits(rows)}
    assert holds["HIS and AE, in forward passes"] == "not measured"


def test_parts_for_which_no_time_is_left_say_so(stage):
    _, left, parts, _ = stage(-1, first=lambda machine: iter([{"value": 1}]))
    assert parts["first"].state == "left out, no time" and not parts["first"].rows and not left


def test_a_limit_that_was_not_measured_does_not_hold():
    assert limit("what", [None], most=1)["holds"] == "not measured"
    assert limit("what", [0.5, 2.0], most=1)["holds"] == "**no**"
    assert limit("what", [float("nan")], most=1)["holds"] == "**no**"
    assert limit("what", [0.95, 1.2], least=0.9) == {"what": "what", "limit": 0.9, "measured": 0.95, "holds": "yes"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--only", "core,all"], "--only=all does not work"),
        (["--minutes", "0"], "--minutes=0 does not work"),
        (["--minutes", "nan"], "--minutes=nan does not work"),
        (["--device", "tpu", "--shapes", "tiny"], "--device=tpu does not work"),
        (["--device", "cpu"], "--shapes=full does not work without a GPU"),
    ],
)
def test_mistakes_on_the_command_line_are_named(tmp_path, capsys, words, message):
    with pytest.raises(SystemExit):
        command.main(["--out", str(tmp_path), *words])
    assert message in capsys.readouterr().err
