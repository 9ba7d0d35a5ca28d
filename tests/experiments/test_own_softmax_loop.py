"""DeBERTa-v3, whose attention computes its own softmax, from fine-tuning to a folder that is pruned."""

import json

import pytest
import torch
import transformers as tf
from glue_copy import write_copy
from small_folders import SIZES, write_folder

import hies
from experiments import finetune, prune, rerun, run
from experiments.sweep import job as job_module
from hies.tasks import TASKS

V3 = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "share_att_key": True, "position_buckets": 4,
      "max_relative_positions": 64, "norm_rel_ebd": "layer_norm", "position_biased_input": False}  # fmt: skip
WORDS = ["model=any", "model.name=words", "task=rte", "task.max_examples=31", "calibration.size=8",
         "task.finetune.epochs=1", "wandb.mode=disabled"]  # fmt: skip


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    """Run a command of this project in folders of its own; gives what it printed."""

    def call(module, *words):
        job_module._evaluators.clear()  # as in a process of its own
        monkeypatch.setattr("sys.argv", ["command", *map(str, words)])
        status = module.main()
        printed = capsys.readouterr()
        assert status == 0, printed.err
        return printed.out

    return call


def test_deberta_v3_is_trained_scored_pruned_and_run_again(call, tmp_path):
    write_copy(tmp_path / "data", TASKS["rte"], train=40, report=31)
    source = write_folder(tmp_path / "body", tf.DebertaV2Model(tf.DebertaV2Config(**SIZES, **V3)))
    folders = [f"cache_dir={tmp_path}/cache", f"results_dir={tmp_path}/results"]
    words = [*WORDS, *folders, f"data_root={tmp_path}/data", f"model.source={source}"]
    trained = call(finetune, *words).partition(": ")[2].partition(", quality")[0]
    call(run, "-m", *words, "criterion=his,ae,hies", "sparsity.ratios=[0.25,0.5]")
    runs = {}
    for path in (tmp_path / "results").rglob("*.jsonl"):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        runs[rows[0]["criterion"]] = path.stem
        assert [row["heads_removed"] for row in rows] == [0, 4, 9] and rows[0]["heads_total"] == 18
    assert sorted(runs) == ["ae", "hies", "his"]
    assert "nothing differs" in call(rerun, runs["hies"], *folders)
    call(prune, *words, "criterion=hies", "sparsity.ratio=0.5", f"out={tmp_path}/out")
    dense, small = tf.DebertaV2ForSequenceClassification.from_pretrained(trained), hies.load_pruned(tmp_path / "out")
    removed = hies.pruned_heads(small)
    batch = {"input_ids": torch.tensor([[5, 6, 7, 11, 9], [8, 5, 7, 0, 0]])}
    batch["attention_mask"] = (batch["input_ids"] > 0).long()
    with torch.no_grad(), hies.masked(dense.eval(), removed):
        torch.testing.assert_close(small.eval()(**batch).logits, dense(**batch).logits, rtol=0, atol=1e-5)
    assert sum(map(len, removed.values())) == 9
