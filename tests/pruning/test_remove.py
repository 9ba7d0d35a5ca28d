"""sparsity.mode and sparsity.unit in the main job: cutting heads out changes no answer; whole groups go where asked."""

import json

import numpy as np
import pytest
import transformers as tf
from hydra import compose, initialize_config_dir
from small_folders import GROUPED, keep_middle_layer_whole, write_folder

from experiments import run
from experiments.config import schema, store
from experiments.config.messages import CONF
from experiments.sweep import job as job_module
from hies.evaluation import evaluator as evaluator_module
from hies.heads import conventions

QUIET = ["wandb.mode=disabled", "calibration.size=8"]
DIGITS = ["model=vit_tiny", "model.architecture.num_hidden_layers=2", "model.finetune.epochs=3", "task=digits",
          "task.max_examples=101", "criterion=his", *QUIET]  # fmt: skip
LIBRARIES = ("joblib", "jinja2")  # small, and there wherever torch and scikit-learn are


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def grouped(tmp_path_factory):
    """A classifier of three layers, each of six query heads that share two key/value heads."""
    labels = {"id2label": dict(enumerate(LIBRARIES)), "label2id": {name: i for i, name in enumerate(LIBRARIES)}}
    model = tf.LlamaForSequenceClassification(tf.LlamaConfig(**GROUPED, **labels))
    return write_folder(tmp_path_factory.mktemp("grouped"), model)


@pytest.fixture
def call(cache, tmp_path, monkeypatch, capsys):
    """Run the command; gives the rows of its runs by run id, the exit status and standard error."""

    def call(results, *arguments):
        job_module._evaluators.clear()  # as in a process of its own
        folders = [f"results_dir={tmp_path / results}", f"cache_dir={cache}"]
        monkeypatch.setattr("sys.argv", ["run", *folders, *arguments])
        status = run.main()
        files = sorted((tmp_path / results).rglob("*.jsonl"))
        rows = {path.stem: [json.loads(line) for line in path.read_text().splitlines()] for path in files}
        return rows, status, capsys.readouterr().err

    call.arrays = lambda results: np.load(next((tmp_path / results).rglob("*.npz")), allow_pickle=False)
    return call


def of_grouped(folder):
    return ["model=any", f"model.source={folder}", "model.name=grouped", f"+model.checkpoint.apidocs={folder}",
            "+model.label_order.apidocs=[0,1]", f"task.libraries=[{','.join(LIBRARIES)}]", "task.report_per_class=31",
            "task.train_per_class=20", "task.selection_per_class=20", *QUIET]  # fmt: skip


def same_but_times(ours, theirs):
    """Equal rows, but for what was measured by a clock and the command itself."""
    left_out = ("score_seconds", "eval_seconds", "command", "digest")
    return [{k: v for k, v in row.items() if k not in left_out} for row in ours] == [
        {k: v for k, v in row.items() if k not in left_out} for row in theirs
    ]


def count_pruned(monkeypatch):
    counted, prune = [], evaluator_module.prune
    monkeypatch.setattr(
        evaluator_module, "prune", lambda model, removed: counted.append(removed) or prune(model, removed)
    )
    return counted


@pytest.mark.parametrize("sparsity", ["oneshot", "iterative"])
def test_cutting_heads_out_gives_the_rows_of_masking_them(call, monkeypatch, sparsity):
    words = [*DIGITS, f"sparsity={sparsity}", "sparsity.ratios=[0.3,0.6,1]"]
    masked, *_ = call("mask", *words)
    counted = count_pruned(monkeypatch)
    removed, status, err = call("remove", *words, "sparsity.mode=remove", "force=true")
    ((run_id, rows),) = masked.items()
    assert status == 0 and removed.keys() == masked.keys(), err
    assert same_but_times(removed[run_id], rows)
    assert counted == [row["mask"] for row in rows if row["mask"]]  # the statistics did not need a pruned model
    assert (call.arrays("mask")["predictions"] == call.arrays("remove")["predictions"]).all()
    assert len({row["quality"] for row in rows}) > 2


def test_both_modes_share_what_was_computed(call, monkeypatch):
    words = [*DIGITS, "seed=5", "sparsity.ratios=[0.4]"]
    call("mask", *words)
    counted = count_pruned(monkeypatch)
    rows, status, _ = call("remove", *words, "sparsity.mode=remove")
    assert status == 0 and len(rows) == 1 and not counted
    _, status, err = call("mask", *words, "sparsity.mode=remove")
    assert status == 0 and not err  # found finished


def test_a_chosen_alpha_is_the_same_in_both_modes(call, monkeypatch):
    words = [*DIGITS, "criterion=hies_per_ratio", "criterion.alphas=[0.9,0.1]", "criterion.tuning_seeds=2",
             "sparsity.ratios=[0.3,0.6]", "seed=6"]  # fmt: skip
    masked, *_ = call("mask", *words)
    counted = count_pruned(monkeypatch)
    removed, status, err = call("remove", *words, "sparsity.mode=remove", "force=true")
    ((run_id, rows),) = masked.items()
    assert status == 0 and len(counted) > 2 and same_but_times(removed[run_id], rows), err


def test_heads_that_cannot_be_cut_out_are_refused_before_anything_is_computed(call, tmp_path, monkeypatch):
    monkeypatch.setitem(conventions.REFUSED, "ViTAttention", "they are sewn together")
    fresh = tmp_path / "cache"
    rows, status, err = call("refused", *DIGITS, "sparsity.mode=remove", f"cache_dir={fresh}")
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert status == 1 and not rows
    assert "sparsity.mode is 'remove'" in line and "sewn together" in line and "sparsity.mode=mask" in line
    assert not list(fresh.glob("checkpoints/*")) and not list(fresh.glob("statistics/*"))
    rows, status, err = call("refused", *DIGITS, "sparsity.ratios=[0.5]", "sparsity.mode=mask")
    assert status == 0 and len(rows) == 1, err


def test_heads_of_sites_that_can_be_cut_go_where_these_are_chosen(call, grouped, monkeypatch):
    keep_middle_layer_whole(monkeypatch)
    words = [*of_grouped(grouped), "criterion=his", "sparsity.ratios=[0.5,1]"]
    _, status, err = call("all", *words, "sparsity.mode=remove")
    assert status == 1 and "sewn together" in err and "model.sites=prunable for the sites that can" in err
    every, _, _ = call("all", *words, "sparsity.mode=mask")
    chosen = [*words, "model.sites=prunable"]
    masked, _, _ = call("chosen", *chosen, "sparsity.mode=mask")
    removed, status, err = call("chosen", *chosen, "sparsity.mode=remove", "force=true")
    ((run_id, rows),) = removed.items()
    assert status == 0 and same_but_times(rows, masked[run_id]) and run_id not in every, err
    assert [(row["heads_total"], row["heads_removed"], row["sites"]) for row in rows] == [
        (12, 0, "prunable"), (12, 6, "prunable"), (12, 12, "prunable")
    ]  # fmt: skip
    assert not any("layers.1" in site for row in rows for site in row["mask"])
    assert rows[0]["parameters"] > rows[1]["parameters"] and next(iter(every.values()))[0]["parameters"] is None
    said = "Heads are removed from 2 of 3 sites; the others stay whole: model.layers.1.self_attn (it is sewn together)."
    assert err.count(said) == 1
    monkeypatch.setitem(conventions.REFUSED, "LlamaAttention", "it is glued")
    _, status, err = call("none", *chosen, "sparsity.mode=mask")
    assert status == 1 and "model.sites is 'prunable'; no head can be cut out: it is glued; it is sewn together." in err


@pytest.mark.parametrize("mode", ["mask", "remove"])
@pytest.mark.parametrize("sparsity", ["oneshot", "iterative"])
def test_whole_groups_go_and_the_row_says_so(call, grouped, sparsity, mode):
    words = [*of_grouped(grouped), f"sparsity={sparsity}", "sparsity.ratios=[0.34,0.5,0.8]", f"sparsity.mode={mode}"]
    by_head, *_ = call("head", *words, "criterion=his")
    by_group, status, err = call("group", *words, "criterion=his", "sparsity.unit=kv_group")
    assert status == 0 and by_head.keys().isdisjoint(by_group), err
    ((rows,), (others,)) = (by_group.values(), by_head.values())
    assert {row["unit"] for row in rows} == {"kv_group"} and not any("unit" in row for row in others)
    assert [row["heads_removed"] for row in rows] == [0, 6, 9, 15]  # of 18 heads in groups of three
    assert [row["heads_removed"] for row in others] == [0, 6, 9, 14]
    for row in rows:
        for heads in row["mask"].values():
            assert all({first, first + 1, first + 2} <= set(heads) for first in (h - h % 3 for h in heads))
    assert any(len(heads) % 3 for row in others for heads in row["mask"].values())
    kept = [(row["parameters"], other["parameters"]) for row, other in zip(rows, others, strict=True)]
    assert all(ours <= theirs for ours, theirs in kept) and any(ours < theirs for ours, theirs in kept)


def test_without_shared_keys_a_group_is_a_head(call):
    words = [*DIGITS, "sparsity.ratios=[0.3,0.6]"]
    (heads,) = call("head", *words)[0].values()
    (groups,) = call("group", *words, "sparsity.unit=kv_group")[0].values()
    assert [row["mask"] for row in heads] == [row["mask"] for row in groups]


def test_one_ratio_is_a_list_of_one(call):
    listed, *_ = call("list", *DIGITS, "sparsity.ratios=[0.4]")
    single, status, _ = call("single", *DIGITS, "sparsity.ratio=0.4")
    assert status == 0 and single.keys() == listed.keys()


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("sparsity.mode=cut", ["sparsity.mode", "cut", "mask or remove"]),
        ("sparsity.unit=group", ["sparsity.unit", "group", "head or kv_group"]),
        ("sparsity.ratio=1.5", ["sparsity.ratio is 1.5", "between 0"]),
        ("sparsity.ratoi=0.5", ["sparsity.ratoi", "did you mean 'sparsity.ratio"]),
    ],
)
def test_a_mistake_is_one_sentence(call, argument, words):
    rows, status, err = call("wrong", *DIGITS, argument)
    assert status == 2 and not rows and err.count("error: ") == 1
    assert all(word in err for word in words)


EARLIER = {"scope": "global", "min_heads_per_layer": 0, "ratios": [0.5], "schedule": "oneshot", "step": None}


@pytest.mark.parametrize(
    ("arguments", "changes"),
    [
        ([], {}),
        (["sparsity.mode=remove"], {}),
        (["sparsity=iterative", "sparsity.min_heads_per_layer=2"],
         {"schedule": "iterative", "step": 0.1, "min_heads_per_layer": 2}),
        (["sparsity.unit=kv_group"], {"unit": "kv_group"}),
        (["sparsity.plain=true"], {"plain": True}),
    ],
)  # fmt: skip
def test_runs_from_before_mode_and_unit_keep_their_identity(arguments, changes):
    store.register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = schema.to_config(compose("config", [*DIGITS, "sparsity.ratios=[0.5]", *arguments]))
    assert job_module.Job(config, ()).identity["sparsity"] == {**EARLIER, **changes}
