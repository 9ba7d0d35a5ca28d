"""The command line as a person uses it: one small real model, real data, real files."""

import json
import re
import shlex
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import FAST, composing, declared, rows_of, without_times
from hydra import compose

from analysis import load
from experiments import run
from experiments.config import schema
from experiments.sweep import job as job_module
from experiments.sweep.jobs import Declared, check_finetuning, jobs_of_sweep, leave_grid
from experiments.sweep.launch import Here
from hies.errors import HiesError
from hies.evaluation import checkpoints
from hies.evaluation import evaluator as evaluator_module
from hies.evaluation.networks import NETWORKS, load_weights
from hies.methods import METHODS
from hies.storage import read_arrays, write_arrays
from hies.tasks import TASKS, classifier


def test_a_job_writes_complete_rows_and_arrays(call):
    status, _ = call("criterion=hies", "criterion.alpha=0.25", "sparsity.ratios=[0.5,0.25,1]")
    rows = rows_of(call.results)
    assert status == 0
    assert [row["ratio"] for row in rows] == [0.0, 0.25, 0.5, 1.0]
    total = rows[0]["heads_total"]
    assert [row["heads_removed"] for row in rows] == [round(r * total) for r in (0, 0.25, 0.5, 1)]
    for row in rows:
        assert row["heads_removed"] == sum(map(len, row["mask"].values()))
        assert (row["criterion"], row["alpha"], row["normalize"]) == ("hies", 0.25, "global")
        assert (row["examples"], row["metric"], row["split"], row["experiment"]) == (
            101,
            "accuracy",
            "report",
            "single",
        )
        assert row["quality"] == pytest.approx(100 * row["value"])
    assert rows[0]["stability"] == 100
    arrays = np.load(next(call.results.rglob("*.npz")), allow_pickle=False)
    assert arrays["predictions"].shape == (4, 101)
    assert arrays["scores"].shape == arrays["his"].shape == arrays["ae"].shape == (total,)
    assert arrays["losses"].shape == (4, 101) and arrays["losses"].dtype == np.float32
    np.testing.assert_allclose([row["loss"] for row in rows], arrays["losses"].mean(axis=1), rtol=1e-5)
    agreement = (arrays["predictions"] == arrays["predictions"][0]).mean(axis=1)
    np.testing.assert_allclose([row["stability"] for row in rows], 100 * agreement)
    np.testing.assert_allclose([row["value"] for row in rows], (arrays["predictions"] == arrays["labels"]).mean(axis=1))


def test_a_row_names_the_calibration_set_where_it_is_not_the_papers(call):
    ratio, keys = "sparsity.ratios=[0.5]", ("calibration_examples", "calibration_labels")
    call("criterion=his", ratio)
    (usual,) = {path.stem for path in call.results.rglob("*.jsonl")}
    call("criterion=his", ratio, "calibration.examples=selection", "calibration.labels=model")
    rows = {row["run_id"]: row for row in rows_of(call.results)}
    assert [rows[usual].get(key) for key in keys] == [None, None] and len(rows) == 2
    (other,) = {*rows} - {usual}
    assert [rows[other][key] for key in keys] == ["selection", "model"]
    status, said = call("calibration.examples=words", "calibration.labels=model")
    assert status == 2 and "error: calibration.examples is 'words'; task=digits takes no texts of others" in said
    status, said = call("calibration.examples=cola")
    assert status == 2 and "error: calibration.labels is 'data'; cola brings no labels of this task" in said


def test_a_row_names_the_criterions_seed_where_it_is_not_the_jobs(call):
    words = "criterion=random", "seed=0", "sparsity.ratios=[0.5]"
    assert call("-m", *words, "criterion.seed=0,1,2")[0] == 0
    rows = [row for row in rows_of(call.results) if row["ratio"]]
    assert sorted(row["criterion_seed"] for row in rows if "criterion_seed" in row) == [1, 2]
    assert len({json.dumps(row["mask"]) for row in rows}) == 3 and {row["seed"] for row in rows} == {0}
    assert (
        call("-m", "criterion=hies", "criterion.placebo=random", *words[1:], "criterion.seed=5", "name=placebo")[0] == 0
    )
    assert {row["criterion_seed"] for row in rows_of(call.results / "placebo")} == {5}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load(call.results, "single")["curve"].nunique() == 3


def test_two_runs_with_one_seed_give_identical_rows(call, cache, tmp_path_factory):
    call("criterion=hies", "seed=3")
    first = rows_of(call.results)
    fresh = tmp_path_factory.mktemp("other_cache")
    call("criterion=hies", "seed=3", "force=true", f"cache_dir={fresh}")
    second = rows_of(call.results)
    for rows in (first, second):
        for row in rows:
            row.pop("command")
    assert without_times(first) == without_times(second)


def test_a_finished_job_is_skipped_and_force_repeats_it(call, monkeypatch, capsys):
    call("criterion=his")
    path = next(call.results.rglob("*.jsonl"))
    before = path.stat().st_mtime_ns
    assert call("criterion=his")[0] == 0
    assert path.stat().st_mtime_ns == before
    call("criterion=his", "force=true")
    assert path.stat().st_mtime_ns > before


def test_a_folder_for_a_pruned_model_is_refused(call):
    status, errors = call("criterion=his", "out=small")
    assert status == 2 and "out is 'small'" in errors
    assert not list(call.results.rglob("*.jsonl"))


def test_what_does_not_change_the_result_does_not_change_the_run_id():
    def ids(*words):
        return {declared(*FAST, "criterion=his", word, multirun=False).jobs[0].run_id for word in words}

    with composing():
        plain = ids("seed=0", "model.batch_size=7", "device=cpu", "wandb.project=other", "results_dir=other")
        others = ids("seed=1", "calibration.size=31", "sparsity.ratios=[0.1]", "sparsity.scope=layer", "criterion=ae")
    assert len(plain) == 1 and len(others - plain) == 5


def test_a_grid_whose_data_cannot_be_read_is_declared(call, tmp_path):
    words = "task=table", f"task.train={tmp_path}/none.csv", "model=minilm"
    with composing():
        jobs = declared(*words, "model.batch_size=8,64", "calibration.size=5,7").jobs
    assert len(jobs) == 4
    with pytest.raises(HiesError, match=r"none\.csv"):
        print(jobs[0].run_id)


def test_of_jobs_that_are_not_alike_no_data_are_read(monkeypatch):
    monkeypatch.setattr(TASKS["digits"], "identity", None)
    with composing():
        found = declared(
            *FAST, "criterion=random,hies", "seed=0,1", "calibration.size=5,7", "sparsity.scope=global,layer"
        )
    assert len(found.jobs) == 16


def test_a_sweep_leaves_its_grid_and_goes_on_where_it_stopped(call, monkeypatch):
    sweep = ["-m", "criterion=his,random", "seed=0,1", "sparsity.ratios=[0.5]"]
    write, written = job_module.results.write_run, []

    def dies_at_the_third(*arguments):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(write(*arguments))

    monkeypatch.setattr(job_module.results, "write_run", dies_at_the_third)
    status, err = call(*sweep)
    assert status == 130 and "goes on from there" in err
    assert len(list(call.results.rglob("*.jsonl"))) == 2
    monkeypatch.setattr(job_module.results, "write_run", write)
    status, err = call(*sweep)
    assert status == 0 and "2 of 4 jobs to do" in err
    grid = json.loads((call.results / "single" / "grid.json").read_text())["jobs"]
    assert {job["run_id"] for job in grid} == {path.stem for path in call.results.rglob("*.jsonl")}
    assert len(rows_of(call.results)) == 8
    assert not [path for path in call.results.rglob(".*partial*")]


def test_a_later_part_does_not_shrink_the_grid(call):
    call("-m", "criterion=his,random", "sparsity.ratios=[0.5]")
    call("-m", "criterion=ae", "sparsity.ratios=[0.5]")
    grid = json.loads((call.results / "single" / "grid.json").read_text())["jobs"]
    assert [job["criterion"] for job in grid] == ["his", "random", "ae"]


def test_another_model_adds_to_the_grid_and_the_same_one_replaces_its_part(call):
    def declare(name, criteria):
        config = schema.to_config(compose_small(name))
        jobs = [job_module.Job(replace(config, criterion=METHODS[kind]()), ()) for kind in criteria]
        leave_grid(Declared(jobs, sweep=True, whole=True, launcher=None))
        grid = json.loads((Path(config.results_dir) / "single" / "grid.json").read_text())["jobs"]
        return sorted((job["model"], job["criterion"]) for job in grid)

    def compose_small(name):
        with composing():
            return compose("config", [*FAST, f"model.name={name}", f"results_dir={call.results}"])

    assert declare("one", ["his", "ae"]) == [("one", "ae"), ("one", "his")]
    assert declare("two", ["ad"]) == [("one", "ae"), ("one", "his"), ("two", "ad")]
    assert declare("one", ["l2"]) == [("one", "l2"), ("two", "ad")]


@pytest.mark.parametrize("word", ["seed=7", "++seed=7"])
@pytest.mark.parametrize("key", ["seed", "++seed"])
def test_an_option_takes_the_place_of_the_same_one_in_a_grid_whatever_its_plus_signs(key, word):
    with composing():
        part = jobs_of_sweep([*FAST, word], {key: "0,1,2"}, Here())
    assert [job.config.seed for job in part.jobs] == [7] and not part.whole


def test_other_ratios_are_the_same_curve_and_anything_else_is_another():
    with composing():
        (few,), (one,), (layer,), (seed,) = (
            declared(*FAST, "criterion=his", *words, multirun=False).jobs
            for words in (["sparsity.ratios=[0.1,0.3]"], ["sparsity.ratio=0.5"], ["sparsity.scope=layer"], ["seed=1"])
        )
    assert few.run_id != one.run_id and few.describe()["curve"] == one.describe()["curve"]
    assert len({job.describe()["curve"] for job in (few, layer, seed)}) == 3


def test_the_command_in_a_row_repeats_its_run(call):
    call("-m", "criterion=his,ae", "seed=0", "sparsity.ratios=[0.5]")
    rows = rows_of(call.results)
    arguments = shlex.split(rows[0]["command"].removeprefix("python -m experiments.run "))
    status, err = call(*arguments, fast=False)
    assert status == 0 and err == ""  # found finished, under the same run id


def test_caches_spare_the_work_that_is_known(call, monkeypatch):
    call("criterion=his", "sparsity.ratios=[0.5]")

    def never(*_):
        raise AssertionError("this was computed before")

    job_module._evaluators.clear()
    for module, name in ((classifier, "predict"), (evaluator_module, "collect"), (checkpoints, "finetune")):
        monkeypatch.setattr(module, name, never)
    for path in call.results.rglob("*.jsonl"):
        path.unlink()
    status, err = call("criterion=his", "sparsity.ratios=[0.5]")
    assert status == 0 and len(rows_of(call.results)) == 2, err


def test_force_computes_again_what_a_changed_code_may_have_changed(call, monkeypatch):
    call("criterion=his", "sparsity.ratios=[0.5]")
    job_module._evaluators.clear()
    computed = []
    for module, name in ((classifier, "predict"), (evaluator_module, "collect")):
        original = getattr(module, name)
        monkeypatch.setattr(
            module,
            name,
            lambda *a, original=original, name=name, **k: computed.append(name) or original(*a, **k),
        )
    call("criterion=his", "sparsity.ratios=[0.5]", "force=true")
    assert sorted(computed) == ["collect", "predict", "predict"]


def test_a_loss_that_cached_answers_lack_is_missing_until_they_are_computed_again(call, cache):
    def of(run):
        (path,) = call.results.rglob(f"*-{run}-*.jsonl")
        losses = [json.loads(line)["loss"] for line in path.read_text().splitlines()]
        return losses, read_arrays(path.with_suffix(".npz"))

    call("criterion=random", "sparsity.ratios=[0.5]")
    job_module._evaluators.clear()
    whole = of("random-s0")[0]
    for path in (cache / "predictions").glob("*.npz"):
        arrays = read_arrays(path)
        write_arrays(path, {name: array for name, array in arrays.items() if name != "losses"})
    call("criterion=random", "seed=5", "sparsity.ratios=[0.25]")  # the whole model's answers are in the cache
    losses, arrays = of("random-s5")
    assert losses[0] is None and losses[1] > 0
    assert np.isnan(arrays["losses"]).all(axis=1).tolist() == [True, False]
    job_module._evaluators.clear()
    call("criterion=random", "sparsity.ratios=[0.5]", "force=true")
    assert None not in whole and of("random-s0")[0] == whole


@pytest.mark.parametrize("criterion", ["random", "l2", "his", "ae", "ad", "hies"])
@pytest.mark.parametrize("sparsity", ["oneshot", "iterative"])
def test_a_job_leaves_the_model_as_it_was(call, criterion, sparsity):
    call(f"criterion={criterion}", f"sparsity={sparsity}", "sparsity.ratios=[0.3,0.6]")
    (bench,) = job_module._evaluators.values()
    saved = load_weights(NETWORKS["image"], bench.checkpoint).state_dict()
    state = bench.network.state_dict()
    assert saved.keys() == state.keys()
    assert all(torch.equal(saved[name], state[name]) for name in saved)
    assert bench.network.config._attn_implementation == "sdpa" and not bench.network.training
    masks = [row["mask"] for row in rows_of(call.results)]
    heads = [{(site, head) for site, gone in mask.items() for head in gone} for mask in masks]
    assert heads[0] < heads[1] < heads[2]


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["criterion.alpha=1"], ["criterion.alpha is 1;", "below 1"]),
        (["criterion.alpha=x"], ["criterion.alpha is 'x';", "per_ratio"]),
        (["criterion.alpa=0.5"], ["criterion.alpa", "criterion.alpha"]),
        (["+criterion.beta=0.5"], ["beta"]),
        (["criterion.normalize=max"], ["criterion.normalize", "max", "global, layer, rank"]),
        (["criterion=hiss"], ["criterion=hiss", "did you mean his"]),
        (["criterion=his", "criterion.alpha=0.5"], ["no option 'criterion.alpha' here", "criterion=hies has it"]),
        (["criterion=his,hies"], ["'criterion=his,hies' has several values", "-m"]),
        (["criterion"], ["'criterion' is no option", "NAME=VALUE"]),
        (["=1"], ["'=1' is no option", "NAME=VALUE"]),
        (["criterion=null"], ["'criterion=null' is no name", "hies/per_ratio"]),
        (["-m", "criterion=his,5"], ["'criterion=his,5' is no name", "did you mean"]),
        (["-m", "experiment=digits,quickstart"], ["several grids", "a command for each"]),
        (["+model.checkpoint.ssst2=DIR"], ["model.checkpoint is 'ssst2'", "did you mean sst2"]),
        (["+model.label_order.colla=[1,0]"], ["model.label_order is 'colla'", "did you mean cola"]),
        (["model.pretrain_task=nonsense"], ["model.pretrain_task is 'nonsense'", "docs"]),
        (["-m", "name=a,b"], ["2 folders", "results/a and ", "results/b"]),
        (["-m", "sparsity.ratio=0.1,0.3"], ["nothing but ratios", "sparsity.ratios=[0.1,0.3]"]),
        (["-m", "sparsity.ratio=0.5,0.1,0.3", "seed=0,1"], ["sparsity.ratios=[0.1,0.3,0.5]"]),
        (
            ["-m", "sparsity.mode=mask,remove", "seed=0,1"],
            ["but sparsity.mode,", "one value, as in sparsity.mode=mask."],
        ),
        (["-m", "criterion=his,hies", "model.batch_size=8,64"], ["run-vit_tiny-digits-his-s0", " model.batch_size=8."]),
        (["-m", "criterion=hies", "criterion.seed=0,1"], ["in nothing but criterion.seed, which makes no difference"]),
        (
            ["-m", "criterion=hies,hies/shrink", "criterion.alpha=0.5,0.9", "resources.cpus=1,2"],
            [
                "but criterion and resources.cpus, which make",
                "one value of each, as in criterion=hies resources.cpus=1.",
            ],
        ),
        (["name=scoring"], ["name is 'scoring'", "other files than runs"]),
        (["model.checkpoint={digits: /x}"], ["a plus sign: +model.checkpoint.digits=VALUE"]),
        (["model.finetune={epoch: 3}"], ["no option 'model.finetune.epoch'"]),
        (["model.source=/a=b"], ["model.source is '/a=b'", "'model.source=\"/a=b\"'"]),
        (["data_root=/a,b"], ["several values", "'data_root=\"/a,b\"'"]),
        (["sparsity.ratios=[0.1"], ["no whole list", "sparsity.ratios=[1,2]"]),
        (["model=/some/folder"], ["model=any", " model.source=/some/folder."]),
        (["criterion=his", "-m", "seed=glob(*)"], ["seed=glob(*)", "separate them by commas"]),
        (["sparsity.ratios=0.3"], ["sparsity.ratios=0.3", "sparsity.ratios=[0.3]"]),
        (["task=nope"], ["task=nope", "apidocs", "digits"]),
        (["model=nope"], ["model=nope", "minilm", "vit_tiny"]),
        (["experiment=quik"], ["experiment=quik", "quickstart"]),
        (["task=apidocs"], ["vit_tiny", "image", "apidocs", "text"]),
        (["sparsity.ratios=[0.1,1.2]"], ["sparsity.ratios", "1.2"]),
        (["sparsity.ratios=[]"], ["sparsity.ratios", "[0.1,0.3]"]),
        (["sparsity.scope=model"], ["sparsity.scope", "model", "global or layer"]),
        (["sparsity.step=0.1"], ["sparsity.step is 0.1", "oneshot"]),
        (["calibration.size=0"], ["calibration.size", "0"]),
        (["task.max_examples=0"], ["task.max_examples", "0"]),
        (["seed=-1"], ["seed", "-1"]),
        (["wandb.mode=on"], ["wandb.mode", "on", "offline"]),
        (["-m", "seed=0,1", "criterion=his,foo"], ["criterion=foo", "random"]),
        (["calibration.size=5000"], ["calibration.size", "5000", "1 to"]),
        (["device=tpu"], ["device", "tpu", "cpu"]),
        (["device=meta"], ["device", "meta", "cpu"]),
        (["sparsity.min_heads_per_layer=7", "sparsity.ratios=[0.9]"], ["min_heads_per_layer=7", "0.9"]),
        (["+model.finetune.speed=1"], ["speed"]),
        (["+task.finetune.speed=1"], ["task.finetune", "speed", "epochs"]),
        (["model.finetune.learning_rate=0"], ["model.finetune.learning_rate is 0.0"]),
        (["+model.checkpoint.digits=/no/such/folder"], ["/no/such/folder", "folder"]),
    ],
)
def test_a_mistake_is_one_sentence_and_leaves_no_row(call, arguments, words):
    status, err = call(*arguments)
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert status != 0
    assert len(errors) == 1 and "Traceback" not in err
    for word in words:
        assert word in errors[0]
    assert not list(call.results.rglob("*.jsonl")) and not list(call.results.rglob("*.npz"))


RTE = "task=rte/after_mnli", "++task.after.finetune={warmup: 0.2}"  # and the epochs and the rate of conf/task/mnli.yaml


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            ["task=cola", "model.finetune.epochs=1"],
            "epochs is 1; task=cola sets its own, so give task.finetune.epochs=1.",
        ),
        (
            ["task=cola", "++model.finetune={learning_rate: 0.5}"],
            "learning_rate is 0.5; task=cola sets its own, so give ",
        ),
        (["-m", "task=apidocs,sst2", "model.finetune.epochs=3,5"], "epochs is 3; task=sst2 sets its own"),
        (["task=apidocs", "model.finetune.epochs=1", "+task.finetune.epochs=2"], "give +task.finetune.epochs=1."),
        ([RTE[0], "model.finetune.epochs=1"], "epochs is 1; task=rte sets its own"),
        ([*RTE, "+task.finetune.warmup=0", "model.finetune.warmup=0.1"], "warmup is 0.1; task=rte sets its own"),
    ],
)
def test_a_word_of_fine_tuning_in_whose_place_the_task_has_one_is_refused(call, words, says):
    status, err = call(*words, fast=False)
    assert status == 2 and err.startswith("error: model.finetune.") and says in err and err.count("\n") == 1


def test_a_word_of_fine_tuning_that_a_training_follows_is_taken():
    words = ["task=apidocs", "model.finetune.epochs=3"], ["task=cola", "model.finetune.batch_size=8"]
    with composing():
        for some in (*words, [RTE[0], "+task.finetune.warmup=0", "model.finetune.warmup=0.1"]):
            check_finetuning(declared(*some, multirun=False).jobs)  # MNLI is trained on before RTE


def test_a_checkpoint_with_other_labels_is_refused(call, tmp_path):
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(image_size=8, patch_size=2, num_channels=1, hidden_size=8, num_attention_heads=2, num_labels=3)
    ViTForImageClassification(config).save_pretrained(tmp_path / "three")
    status, err = call(f"+model.checkpoint.digits={tmp_path}/three")
    assert status == 1 and re.search(r"3 outputs.*task=digits has 10 labels", err)
    assert not list(call.results.rglob("*.jsonl"))


def test_more_calibration_examples_than_there_are_is_said_before_a_model_is_trained(call, tmp_path):
    status, err = call("calibration.size=5000", f"cache_dir={tmp_path}/fresh")
    assert status == 1 and "error: calibration.size is 5000" in err
    assert not list(tmp_path.rglob("*.safetensors"))


def test_one_failing_job_does_not_stop_a_sweep(call):
    status, err = call("-m", "calibration.size=5000,8", "criterion=his", "sparsity.ratios=[0.5]")
    assert status == 1 and err.count("error: ") == 1
    assert [row["calibration_size"] for row in rows_of(call.results)] == [8, 8]


def test_a_broken_mirror_costs_no_result(call, monkeypatch):
    import wandb

    def broken(**_):
        raise RuntimeError("no disk")

    monkeypatch.setattr(wandb, "init", broken)
    status, _err = call("wandb.mode=offline", "criterion=his", "sparsity.ratios=[0.5]")
    assert status == 0 and len(rows_of(call.results)) == 2


@pytest.fixture(scope="module")
def fixed(cache, tmp_path_factory):
    """Masks of fixed alphas: (alpha, ratio) -> seed -> mask."""
    results, masks = tmp_path_factory.mktemp("fixed"), {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["run", "-m", *FAST, f"results_dir={results}", f"cache_dir={cache}", "seed=0,1",
                                   "criterion=hies", "criterion.alpha=0.9,0.5,0.1", "calibration.size=8",
                                   "sparsity.ratios=[0.3,0.6]"])  # fmt: skip
        assert run.main() == 0
    for row in rows_of(results):
        masks.setdefault((row["alpha"], row["ratio"]), {})[row["seed"]] = row["mask"]
    return masks


TUNED = ["criterion=hies", "criterion.alphas=[0.9,0.5,0.1]", "criterion.tuning_seeds=2", "sparsity.ratios=[0.3,0.6]"]


@pytest.mark.parametrize("word", ["auto", "per_ratio", "per_task", "per_ratio_on_report", "per_task_on_report"])
def test_a_chosen_alpha_is_the_best_of_the_fixed_ones_by_its_own_measure(call, fixed, word):
    status, err = call(*TUNED, f"criterion.alpha={word}", "criterion.tuning_examples=61", "calibration.size=8")
    rows = rows_of(call.results)
    assert status == 0 and [row["alpha"] for row in rows] == [word] * 3, err
    assert rows[0]["alpha_used"] is None and {row["alpha_used"] for row in rows[1:]} <= {0.9, 0.5, 0.1}
    (bench,) = job_module._evaluators.values()

    def measure(alpha, ratio):
        masks = fixed[alpha, ratio]
        if word == "auto":
            return -bench.calibration_loss(masks[0], 0, 8)
        split = "report" if "report" in word else "selection"
        return np.mean([bench.quality(masks[seed], split, 61) for seed in (0, 1)])

    def area(alpha):
        return sum(ratio * measure(alpha, ratio) for ratio in (0.3, 0.6))

    for row in rows[1:]:
        ratio, used = row["ratio"], row["alpha_used"]
        assert row["mask"] == fixed[used, ratio][0]
        ours, all_of = (
            (area(used), [area(a) for a in (0.9, 0.5, 0.1)])
            if "task" in word
            else (measure(used, ratio), [measure(a, ratio) for a in (0.9, 0.5, 0.1)])
        )
        assert ours == pytest.approx(max(all_of))


def test_equal_masks_are_evaluated_once_and_the_log_says_so(call, cache, tmp_path):
    call("-m", "criterion=hies", "criterion.alpha=0.99,0.98,0.97,0.5", "sparsity.ratios=[0.2,0.5]", "seed=7",
         f"cache_dir={tmp_path}/own")  # fmt: skip
    masks = {json.dumps(row["mask"], sort_keys=True) for row in rows_of(call.results)}
    job_module._evaluators.clear()
    tally = job_module.pass_counter()
    asked, distinct, evaluated = tally.asked, len(tally.distinct), tally.evaluated
    status, err = call("-m", "criterion=hies", "criterion.alpha=0.99,0.98,0.97,0.5", "sparsity.ratios=[0.2,0.5]",
                       "seed=7", "name=again", f"cache_dir={tmp_path}/own")  # fmt: skip
    assert status == 0 and re.search(r"\d+ pruned models asked about, \d+ distinct, \d+ evaluated", err)
    assert tally.evaluated == evaluated and len(tally.distinct) == distinct and tally.asked > asked
    assert len(list((tmp_path / "own" / "predictions").glob("*.npz"))) == len(masks)


def test_a_failed_job_leaves_a_record_that_success_takes_away(call):
    status, _ = call("criterion=his", "calibration.size=5000")
    (record,) = call.results.rglob("*.failed.json")
    failure = json.loads(record.read_text())
    assert status == 1 and "calibration.size" in failure["error"] and "calibration.size=5000" in failure["command"]
    record.rename(record.with_name(record.name.replace(record.name, "run-x.failed.json")))
    call("criterion=his", "sparsity.ratios=[0.5]")
    (path,) = call.results.rglob("*.jsonl")
    job_module.results.write_failure(path, "earlier", "command")
    call("criterion=his", "sparsity.ratios=[0.5]", "force=true")
    assert [left.name for left in call.results.rglob("*.failed.json")] == ["run-x.failed.json"]


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("data_root=/no/such", "data_root"),
        ("name=a/b", "name is"),
        ("seed=99999999999999999999", "seed is"),
        ("model.finetune.learning_rate=nan", "learning_rate"),
        ("model.finetune.seed=-1", "model.finetune.seed is -1"),
        ("model.precision=float16", "bfloat16"),
        ("model.architecture.model_type=vitt", "vit"),
        ("+model.architecture.hiden_size=32", "model.architecture.hiden_size is 32; did you mean hidden_size?"),
        ("+model.architecture.num_layers=2", "did you mean num_hidden_layers?"),
        ("+model.architecture.n_experts=2", "no such option"),
        ("model.architecture.num_attention_heads=0", "model.architecture is"),
        ("criterion.alpha=often", "per_ratio"),
        ("results_dir=/proc/none", "results_dir"),
        ("cache_dir=/proc/none", "cache_dir"),
    ],
)
def test_further_mistakes_are_one_sentence_too(call, argument, words):
    status, err = call("criterion=hies", argument)
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert status != 0 and len(errors) == 1 and words in errors[0] and "Traceback" not in err
    assert not rows_of(call.results)


def test_a_method_that_removes_no_heads_has_the_same_rows_and_its_own_cost(call, cache, monkeypatch):
    status, _ = call("criterion=llm_pruner_channel", "sparsity.ratios=[0.25,0.5]")
    rows = rows_of(call.results)
    assert status == 0 and [row["ratio"] for row in rows] == [0.0, 0.25, 0.5]
    assert [row["heads_removed"] for row in rows] == [0, 0, 0] and [row["mask"] for row in rows] == [{}, {}, {}]
    dense, quarter, half = rows
    attention = 2 * 4 * 64 * 64  # weights; the output biases of the channels that nothing writes go as well
    assert dense["parameters"] - quarter["parameters"] == attention // 4 + 2 * 16
    assert dense["parameters"] - half["parameters"] == attention // 2 + 2 * 32
    assert dense["flops"] - half["flops"] == 2 * (quarter["flops"] - half["flops"]) > 0
    assert dense["stability"] == 100
    assert all(row["score_seconds"] > 0 and row["eval_seconds"] > 0 for row in (quarter, half))
    with np.load(next(call.results.rglob("*.npz"))) as arrays:
        assert arrays["predictions"].shape == (3, 101) and arrays["heads"].tolist() == [8] * 2
    monkeypatch.setattr(evaluator_module.Evaluator, "_apply", None)  # known by now
    assert call("criterion=llm_pruner_channel", "sparsity.ratios=[0.25,0.5]", "name=again")[0] == 0
    again = rows_of(call.results / "again")
    assert [row["quality"] for row in again] == [row["quality"] for row in rows]


def test_a_method_that_does_not_fit_is_refused_before_any_work(call, tmp_path):
    status, log = call("criterion=slicegpt", f"cache_dir={tmp_path}/other", "model.finetune.epochs=1")
    assert status == 1 and "criterion=slicegpt does not fit model=vit_tiny" in log
    assert not list((tmp_path / "other").rglob("*.safetensors")) and rows_of(call.results) == []


def test_ratios_beyond_what_a_criterion_can_remove_are_left_out_and_named(call):
    # Of six layers the first and the last stay whole.
    six = "model.architecture.num_hidden_layers=6", "model.finetune.batch_size=250"
    status, log = call("criterion=llm_pruner_block", "sparsity.ratios=[0.25,0.9]", *six)
    rows = rows_of(call.results)
    assert status == 0 and [row["ratio"] for row in rows] == [0.0, 0.25]
    assert "not at 90 %, which is more than llm_pruner_block can remove" in log
    layers = [int(site.split(".")[-2]) for site in rows[1]["mask"]]
    assert layers == [1, 2, 3, 4] and {len(heads) for heads in rows[1]["mask"].values()} == {3}
    status, log = call("criterion=llm_pruner_block", "sparsity.ratios=[0.9]", *six)
    assert status == 1 and "but llm_pruner_block can remove at most 32 of this model" in log


@pytest.mark.parametrize("criterion", ["llm_pruner_block", "llm_pruner_channel", "slicegpt"])
@pytest.mark.parametrize("knob", ["sparsity.scope=layer", "sparsity.unit=kv_group", "sparsity.min_heads_per_layer=1"])
def test_a_criterion_with_its_own_way_to_remove_takes_nothing_but_ratios(call, criterion, knob):
    status, log = call(f"criterion={criterion}", knob)
    name = knob.split("=")[0]
    assert status != 0 and f"error: {name} is" in log and f"{criterion} has its own way to remove" in log


# one pass gives what his and ae need; greedy tries each of 16 heads, then of 15, down to 2
@pytest.mark.parametrize(("criteria", "scored"), [(("his", "ae"), 32), (("greedy",), 32 * sum(range(2, 17)))])
def test_the_log_compares_with_a_grid_whose_cells_know_nothing_of_each_other(call, monkeypatch, criteria, scored):
    job_module.pass_counter.cache_clear()
    monkeypatch.setattr(job_module, "_evaluators", {})
    status, log = call("-m", f"criterion={','.join(criteria)}", "sparsity.ratios=[0.5,1]", "name=counted")
    cells = len(criteria) * 2 * (scored + 2 * 101)
    needed = scored + (2 + len(criteria)) * 101  # the unpruned model, a mask a criterion, and no head at all, once
    assert status == 0
    assert f"{needed:,} forward passes of an example, cached ones included; each cell" in log
    assert f"would take {cells:,} ({100 * needed / cells:.0f} %)" in log
