"""What is computed from examples is found again for the same examples alone, whatever a task says that they are."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch

from experiments import run
from experiments.sweep import job as job_module
from hies.evaluation.evaluator import Evaluator
from hies.evaluation.models import Model
from hies.tasks import TASKS, ApiDocs, Digits, Docs, Splits
from hies.tasks.base import Task
from hies.training import Finetuning

VIT = {
    "model_type": "vit", "image_size": 8, "patch_size": 2, "num_channels": 1, "hidden_size": 14,
    "num_hidden_layers": 1, "num_attention_heads": 7, "intermediate_size": 11,
}  # fmt: skip


@dataclass(frozen=True)
class Drawn(Digits):
    """Draws that the identity, that of `digits`, says nothing of: by knobs, or by what no knob decides."""

    start: int = 0
    skipped: list[int] = field(default_factory=list)

    places: ClassVar = {}

    def load(self, data_root, cache_dir):
        splits = super().load(data_root, cache_dir)
        places = {"train": [p for p in range(self.start, self.start + 53) if p not in self.skipped], **self.places}
        return replace(splits, **{name: getattr(splits, name).take(chosen) for name, chosen in places.items()})


class Read(Drawn):
    """Has no identity of its own making."""

    identity = Task.identity


def bench_of(cache, task, **changes):
    settings = {"modality": "image", "architecture": VIT, "finetune": Finetuning(epochs=1)}
    return Evaluator(Model(name="small", **{**settings, **changes}), task, None, cache, torch.device("cpu"))


def computed(bench):
    """What lies in the cache for a task, and where its checkpoint does."""
    his = bench.statistics(frozenset({"his"}), 0, 7).his
    return Path(bench.checkpoint).name, np.concatenate([values.numpy() for values in his.values()]).tolist()


def test_other_training_examples_under_one_identity_are_scored_and_trained_on_anew(tmp_path, monkeypatch):
    first = computed(bench_of(tmp_path, Drawn()))
    monkeypatch.setattr(Drawn, "places", {"train": np.arange(100, 153)})
    other = bench_of(tmp_path, Drawn())
    second = computed(other)
    assert first[0] != second[0] and first[1] != second[1] and other.declared == Drawn().fingerprint(None)
    elsewhere = computed(bench_of(tmp_path / "fresh", Drawn()))
    assert second[1] == elsewhere[1]
    monkeypatch.undo()
    again = bench_of(tmp_path, Drawn())
    assert computed(again) == first and again.data == again.declared


def test_an_interrupted_write_does_not_make_the_examples_others(tmp_path, monkeypatch):
    bench = bench_of(tmp_path, Drawn())
    with monkeypatch.context() as patch:
        patch.setattr(Splits, "digests", lambda splits: ["\ud800"] * 3)  # which no file takes
        with pytest.raises(UnicodeError):
            bench.data  # noqa: B018
    assert bench_of(tmp_path, Drawn()).data == bench.declared


def test_other_selection_or_report_examples_are_told_apart_too(tmp_path, monkeypatch):
    """Those of a smaller report are no others: `max_examples` has a place of its own in every name."""
    known = bench_of(tmp_path, Drawn()).data
    assert {bench_of(tmp_path, Drawn(max_examples=count)).data for count in (11, 29)} == {known}
    for split in ("selection", "report"):
        monkeypatch.setattr(Drawn, "places", {split: np.arange(31, 97)})
        assert bench_of(tmp_path, Drawn()).data != known
        if split == "selection":  # which decides the weights, whatever is reported
            assert bench_of(tmp_path, Drawn(max_examples=7)).data != known


def test_a_knob_that_an_identity_leaves_out_makes_another_run():
    one = Drawn().fingerprint(None)
    assert Digits().identity(None) != one == Drawn(max_examples=3, finetune={"epochs": 2}).fingerprint(None)
    others = [Drawn(start=5), Drawn(start=6), Drawn(skipped=[3]), Drawn(data_seed=1), Drawn(data_seed=1, start=5)]
    assert len({one, *(task.fingerprint(None) for task in others)}) == 6
    after = Drawn(start=5, after=Drawn(start=6)).fingerprint(None)
    assert after not in (Drawn(start=5, after=Drawn()).fingerprint(None), Drawn(start=5).fingerprint(None))


@pytest.mark.parametrize(
    "task",
    [ApiDocs(libraries=["numpy", "sklearn"], min_words=6, train_per_class=7), Docs(libraries=["numpy"], train_size=9),
     Digits(data_seed=3), TASKS["digit_questions"](data_seed=2)],
    ids=lambda task: task.name,
)  # fmt: skip
def test_the_fingerprint_of_a_task_that_leaves_no_knob_out_is_its_identity(task):
    assert task.fingerprint(None) == task.identity(None)


def test_a_task_without_an_identity_of_its_own_is_read(monkeypatch):
    one = Read().identity(None)
    assert one == Read(max_examples=3).identity(None) != Read(start=5).identity(None)
    loads = []
    monkeypatch.setattr(Read, "load", lambda *arguments: loads.append(1) or Drawn.load(*arguments))
    assert Read(start=9).identity(None) == Read(start=9).identity(None) and len(loads) == 1


def test_weights_that_were_trained_on_other_examples_before_are_others(tmp_path, monkeypatch):
    known = bench_of(tmp_path, Digits(after=Drawn())).data
    monkeypatch.setattr(Drawn, "places", {"train": np.arange(100, 153)})
    assert bench_of(tmp_path, Digits(after=Drawn())).data != known


def test_finished_rows_of_other_examples_are_not_skipped_in_silence(tmp_path, monkeypatch, capsys):
    load, first = Digits.load, {"first": 0}

    def drawn(*arguments):
        splits = load(*arguments)
        return replace(splits, train=splits.train.take(np.arange(first["first"], first["first"] + 53)))

    monkeypatch.setattr(Digits, "load", drawn)
    words = ["model=vit_tiny", "task=digits", "criterion=l2", "sparsity.ratios=[0.5]", "wandb.mode=disabled",
             "task.max_examples=53", "model.finetune.epochs=1",
             f"cache_dir={tmp_path}/cache", f"results_dir={tmp_path}/results"]  # fmt: skip

    def call(*more):
        job_module._evaluators.clear()
        monkeypatch.setattr("sys.argv", ["run", *words, *more])
        return run.main(), capsys.readouterr()

    assert call()[0] == 0 and "All 1 jobs are finished" in call()[1].out
    first["first"] = 100
    status, printed = call()
    assert status == 2 and "was computed from other examples than task=digits has now" in printed.err
    assert call("force=true")[0] == 0 and "All 1 jobs are finished" in call()[1].out
