"""Repeating a finished run from its rows: what is equal, what differs, and what is refused."""

import json
import os
import shlex

import numpy as np
import pytest
import torch
from command_line import composing
from hydra import compose

from experiments import rerun, run
from experiments.compare import Run, run_differences, version_warnings
from experiments.config.messages import CONF
from experiments.sweep import job as job_module
from hies.errors import HiesError
from hies.evaluation import checkpoints, evaluator
from hies.runs import files as results
from hies.runs import folders
from hies.storage import read_arrays
from hies.tasks import classifier

TINY = ["model=vit_tiny", "task=digits", "model.finetune.epochs=2", "model.finetune.batch_size=100",
        "model.finetune.learning_rate=0.01", "model.architecture.num_hidden_layers=2", "task.max_examples=61",
        "model.architecture.hidden_size=16", "wandb.mode=disabled", "sparsity.ratios=[0.3,0.6]"]  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Folders with one finished run: (results folder, its row file)."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["run", *TINY, "criterion=his", f"results_dir={folder}/a/results",
                                   f"cache_dir={folder}/cache"])  # fmt: skip
        assert run.main() == 0
    return next((folder / "a" / "results").rglob("run-*.jsonl"))


@pytest.fixture
def stored(finished, tmp_path):
    """The same run in a folder that a test may change: its row file."""
    rows, arrays = [json.loads(line) for line in finished.read_text().splitlines()], finished.with_suffix(".npz")
    path = tmp_path / "results" / "single" / finished.name
    results.write_run(path, unsealed(rows), read_arrays(arrays))
    return path


def unsealed(rows):
    return [{key: value for key, value in row.items() if key not in ("schema", "rows", "digest")} for row in rows]


def rewrite(path, **changes):
    """Change rows (a value, or a function of the row) and arrays as somebody would who computed something else."""
    rows, arrays = (
        unsealed(json.loads(line) for line in path.read_text().splitlines()),
        read_arrays(path.with_suffix(".npz")),
    )
    for name, value in changes.items():
        if name in arrays:
            arrays[name] = value(arrays[name])
        else:
            rows = [{**row, name: value(row) if callable(value) else value} for row in rows]
    results.write_run(path, rows, arrays)


@pytest.fixture
def again(stored, finished, monkeypatch, capsys):
    """Repeat the run; gives (exit status, standard output, standard error)."""
    cache = finished.parents[3] / "cache"

    def again(*words, run_id=stored.stem):
        monkeypatch.setattr(
            "sys.argv", ["rerun", run_id, f"results_dir='{stored.parent.parent}'", f"cache_dir={cache}", *words]
        )
        status = rerun.main()
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return again


def test_a_repeated_run_is_the_same_and_leaves_everything_as_it_was(again, stored, finished, monkeypatch):
    def state():
        roots = (stored.parent.parent, finished.parent.parent.parent.parent / "cache")
        files = {path for root in roots for path in root.rglob("*") if path.is_file() and path.suffix != ".lock"}
        return {path: path.stat().st_mtime_ns for path in files}

    called = []
    for module, name in ((evaluator, "collect"), (classifier, "predict"), (checkpoints, "finetune")):
        work = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, w=work, n=name, **k: called.append(n) or w(*a, **k))
    before = state()
    status, out, _ = again()
    assert status == 0 and "nothing differs in its 3 rows" in out, out
    assert sorted(called) == ["collect", "predict", "predict", "predict"]  # again, on the checkpoint that was there
    assert state() == before


def test_a_row_tells_its_precision_and_machine_and_where_its_model_was_trained(finished):
    for row in map(json.loads, finished.read_text().splitlines()):
        there = {"cpu": torch.backends.cpu.get_cpu_capability(), "threads": "1"}
        trained = ", ".join(f"{name} {value}" for name, value in {**there, "torch": torch.__version__}.items())
        assert row["precision"] == "float32"
        assert row["versions"] == {**results.versions(), **there, "trained on": trained}


def test_what_differs_is_named_ratio_by_ratio(again, stored):
    def other_mask(row):
        if row["ratio"] != 0.3:
            return row["mask"]
        site = max(row["mask"], key=lambda name: len(row["mask"][name]))
        return {**row["mask"], site: row["mask"][site][1:]}

    def other_answers(predictions):
        predictions[2, :4] = (predictions[2, :4] + 1) % 10
        return predictions

    rewrite(stored, mask=other_mask, predictions=other_answers, scores=lambda scores: scores + np.float64(0.25),
            stability=lambda row: 12.5 if row["ratio"] == 0.6 else row["stability"])  # fmt: skip
    status, out, _ = again()
    third, sixth, scores = out.splitlines()
    assert status == 1
    assert third == "ratio 0.3: 1 heads are in one mask and not in the other"
    assert sixth.startswith("ratio 0.6: stability 12.5 before, ") and sixth.endswith("4 of 61 answers changed")
    assert scores.startswith("scores: largest difference 0.25")


def test_other_versions_and_another_revision_are_warnings_alone(again, stored):
    rewrite(stored, versions=lambda row: {**row["versions"], "numpy": "0.1"}, revision="abc+")
    status, _, err = again()
    warnings = [line for line in err.splitlines() if line.startswith("warning: ")]
    assert status == 0 and len(warnings) == 3
    assert "numpy is" in warnings[0] and "0.1" in warnings[0]
    assert "were computed at abc+" in warnings[1] and "changed tree" in warnings[2]


def test_rows_without_arrays_are_compared_as_far_as_they_go(again, stored):
    stored.with_suffix(".npz").unlink()
    status, out, err = again()
    assert status == 0 and "nothing differs" in out and "no arrays beside it" in err


def refused(called):
    status, out, err = called
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert status == 2 and not out and len(errors) == 1 and "Traceback" not in err
    return errors[0]


def test_an_unknown_run_names_the_closest(again, stored):
    assert stored.stem in refused(again(run_id=stored.stem[:-1]))
    assert "holds none at all" in refused(again("results_dir=/no/such/folder"))


@pytest.mark.parametrize("run_id", ["../single/run-x", "/etc/passwd", ".", "a b"])
def test_a_path_is_no_run(again, run_id):
    assert "no path" in refused(again(run_id=run_id))


def test_damaged_rows_are_nothing_to_compare_with(again, stored):
    stored.write_text(stored.read_text()[:-20])
    assert "nothing to compare with" in refused(again())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("seed=1", "seed is 1 where the rows have 0"),
        ("calibration.size=31", "calibration_size is 31 where the rows have 32"),
        ("sparsity.ratios=[0.3]", "sparsity.ratios lacks 0.6"),
        ("task.data_seed=1", "the data of task=digits have the digest"),
        ("model.finetune.epochs=1", "the code, its settings or the model's weights"),
    ],
)
def test_another_run_is_refused_with_what_makes_it_another(again, change, words):
    error = refused(again(change))
    assert "makes another run now" in error and words in error


@pytest.mark.parametrize(
    "command",
    [
        "rm -rf results",
        "python -m experiments.prune seed=0",
        "python -m experiments.run; rm x",
        "python -m experiments.run --config-dir=/tmp seed=0",
        "python -m experiments.run task=lm_eval task.name=mine task.include_path=/tmp/own",
        "python -m experiments.run hydra.run.dir=/tmp",
        "python -m experiments.run hydra/launcher=joblib",
        "python -m experiments.run +hydra.x=1",
        "python -m experiments.run model.source='${oc.env:HOME}'",
        "python -m experiments.run ~criterion",
        "python -m experiments.run 'seed=0",
        "python -m experiments.run model=../../../tmp/model",
        "python -m experiments.run model=[any,../../tmp/model]",
        "python -m experiments.run +experiment=/tmp/own",
        "python -m experiments.run model@task=any",
        r"python -m experiments.run 'model.source=$\{oc.env:HOME\}'",
        "python -m experiments.run 'model.checkpoint={rte: \"${oc.env:HOME}\"}'",
        "python -m experiments.run seed=0,1",
        f"python -m experiments.run 'sparsity.ratios={'[' * 4000}0{']' * 4000}'",
        f"python -m experiments.run {'seed=0 ' * 100_000}",
    ],
)
def test_of_a_record_nothing_but_plain_overrides_is_taken(command):
    with pytest.raises(HiesError, match="The command of the rows"):
        rerun.recorded_overrides(command)


def test_the_overrides_of_a_packed_command_leave_out_the_place_of_the_data(finished):
    command = json.loads(finished.read_text().splitlines()[0])["command"]
    overrides = rerun.recorded_overrides(f"{command} 'data_root=$HIES_DATA'")
    kept = [word for word in shlex.split(command) if not word.startswith(("results_dir=", "cache_dir="))]
    assert [*job_module.COMMAND.split(), *overrides] == kept and len(kept) == len(shlex.split(command)) - 2


def test_a_record_does_not_say_where_files_lie():
    words = ("++cache_dir=/tmp/a", "+results_dir=b", "out=c", "force=true", "seed=3")
    assert rerun.recorded_overrides(f"{job_module.COMMAND} {' '.join(words)}") == ["seed=3"]


def test_ratios_arrays_and_shapes_that_are_not_on_both_sides_are_named():
    def made(ratios, **arrays):
        return Run([{"ratio": ratio, "mask": {}, "quality": None} for ratio in ratios], arrays)

    nan, one = np.array([[1.0, np.nan]]), np.array([[1.0, 2.0]])
    assert run_differences(made([0], predictions=nan), made([0], predictions=nan.copy())) == []
    assert run_differences(made([0], predictions=nan), made([0], predictions=one)) == [
        "ratio 0: 1 of 2 answers changed"
    ]
    assert run_differences(made([0, 0.5]), made([0])) == ["ratios: [0, 0.5] before, [0] now"]
    assert run_differences(made([0], his=one), made([0], ae=one)) == ["ae: only there now", "his: only there before"]
    assert run_differences(made([0], his=one), made([0], his=one[:, :1])) == ["his: shape (1, 2) before, (1, 1) now"]
    assert run_differences(made([0], sites=np.array(["a"])), made([0], sites=np.array(["b"]))) == [
        "sites: not the same"
    ]


def test_losses_that_the_earlier_run_has_not_got_are_no_difference(again, stored):
    rewrite(stored, losses=lambda losses: np.where(np.arange(3)[:, None] == 1, np.nan, losses),
            loss=lambda row: None if row["ratio"] == 0.3 else row["loss"])  # fmt: skip
    assert again()[0] == 0
    rows, arrays = map(json.loads, stored.read_text().splitlines()), read_arrays(stored.with_suffix(".npz"))
    del arrays["losses"]
    results.write_run(stored, [{k: v for k, v in row.items() if k != "loss"} for row in unsealed(rows)], arrays)
    status, out, _ = again()
    assert status == 0 and "nothing differs in its 3 rows" in out


def test_losses_that_differ_are_named(again, stored):
    rewrite(stored, losses=lambda losses: losses + np.float32(0.5) * (np.arange(3)[:, None] == 2),
            loss=lambda row: row["loss"] + (0.5 if row["ratio"] == 0.6 else 0))  # fmt: skip
    status, out, _ = again()
    sixth, losses = out.splitlines()
    assert status == 1 and sixth.startswith("ratio 0.6: loss ") and losses.startswith("losses: largest difference 0.5")


def test_a_version_that_only_one_side_knows_is_named():
    before, now = {"versions": {"a": "1"}, "revision": None}, {"versions": {"b": "2"}, "revision": None}
    assert [text.split()[0] for text in version_warnings(before, now)] == ["a", "b"]


REPORTS = sorted(path.parent for path in (CONF.parent / "reports").rglob("grid.json"))


@pytest.mark.parametrize("folder", REPORTS, ids=lambda folder: folder.name)
def test_a_recorded_command_with_older_names_makes_the_job_that_it_made(folder):
    data_root = os.environ.get("HIES_DATA")
    seen = set()
    for _, text in folders.texts(folder):
        row = json.loads(text.split("\n", 1)[0])
        overrides = rerun.recorded_overrides(row["command"])
        choices = {word for word in overrides if word.startswith(("criterion=", "task="))}
        if choices <= seen:  # every criterion and every task once: they are composed apart from each other
            continue
        seen |= choices
        with composing():
            job = job_module.Job.of(compose("config", overrides), overrides)
        # Part of the run ids, so it must not come from the machine that repeats the command.
        older = "float32" if folder.name == "digit_questions" else "bfloat16"  # rows that do not say it
        assert job.config.model.precision == row.get("precision", older)
        assert not any(word.startswith("model.precision=") for word in job.overrides)
        knobs = {**job.config.criterion.knobs, **job.config.sparsity.knobs, "seed": job.config.seed}
        knobs = json.loads(json.dumps(knobs))  # lists in the place of tuples, as in the row
        assert {key: value for key, value in knobs.items() if key in row} == {
            key: row[key] for key in knobs if key in row
        }
        assert (job.config.task.name, job.config.criterion.name) == (row["task"], row["criterion"])
        if data_root:  # the run id holds a digest of the data
            assert job.run_id == row["run_id"]
    assert seen
