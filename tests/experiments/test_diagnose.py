"""The diagnosis of HIS: what it records is recomputed here by other means, and the analysis can read it."""

import copy
import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_models import make, make_batch

from analysis.data import diagnosis
from experiments import diagnose
from experiments.config import schema
from experiments.sweep import job
from hies.batching import Encoded
from hies.errors import HiesError
from hies.evaluation.models import Model
from hies.heads.attention import find_sites
from hies.heads.masking import masked
from hies.heads.sites import join
from hies.methods import METHODS
from hies.pruning.selection import select
from hies.scoring.calibration_pass import collect
from hies.tasks import TASKS
from hies.tasks.classifier import predict

CLASSIFIERS = ["bert", "roberta", "electra", "distilbert", "albert", "modernbert", "bart_classifier"]
LANGUAGE = ["gpt2", "llama_grouped", "mistral", "gemma2"]


def one_example(name: str, index: int = 0) -> dict[str, torch.Tensor]:
    """One example of `make_batch`, its padding cut off."""
    batch = make_batch(name)
    length = int(batch["attention_mask"][index].sum())
    return {key: value[index : index + 1, :length] for key, value in batch.items() if key != "labels"}


@pytest.mark.parametrize("name", [*CLASSIFIERS, *LANGUAGE])
def test_attention_is_that_of_the_eager_implementation(name: str) -> None:
    model, example = make(name).eval(), one_example(name)
    received = diagnose.attention_received(model, example)
    before = copy.deepcopy(model.state_dict())
    model.set_attn_implementation("eager")
    with torch.no_grad():
        outputs = model(**example, output_attentions=True)
    kinds = ("attentions", "encoder_attentions", "decoder_attentions", "cross_attentions")
    layers = [layer for kind in kinds for layer in (getattr(outputs, kind, None) or ())]
    expected = sorted(tuple(np.round(row, 4)) for layer in layers for row in layer[0].mean(dim=1).numpy())
    if name == "albert":  # one site, called for every layer
        expected = [tuple(row) for row in torch.stack([layer[0].mean(dim=1) for layer in layers]).mean(dim=0).numpy()]
    rows = sorted(tuple(row) for part in received.values() for row in part.numpy())
    np.testing.assert_allclose(rows, sorted(expected), atol=2e-4)
    np.testing.assert_allclose([sum(row) for row in rows], 1, atol=1e-5)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_each_site_has_its_own_heads_in_order() -> None:
    model, example = make("bert").eval(), one_example("bert")
    received = diagnose.attention_received(model, example)
    model.set_attn_implementation("eager")
    with torch.no_grad():
        layers = model(**example, output_attentions=True).attentions
    assert list(received) == list(find_sites(model, example))
    for rows, layer in zip(received.values(), layers, strict=True):
        np.testing.assert_allclose(rows, layer[0].mean(dim=1), atol=1e-6)


def test_attention_over_something_else_than_the_tokens_is_refused() -> None:
    model, example = make("bert").eval(), one_example("bert")
    shorter = {**example, "input_ids": example["input_ids"][:, :-1]}
    with pytest.raises(HiesError, match="does not attend over the tokens"):
        diagnose.attention_received(lambda_model(model, example), shorter)


def lambda_model(model, example):
    """A model that reads other tokens than those it is given."""

    class Other(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, **_):
            return self.inner(**example)

    return Other()


@pytest.mark.parametrize(
    ("quality", "place"),
    [
        ([90, 85, 60, 55], 2),
        ([90, 80, 70, 75], 1),  # equal drops: the first
        ([90, None, 10, 5], 3),  # a drop from or to an undefined quality is none
        ([50, 60, 70], None),
        ([90, None], None),
        ([90], None),
    ],
)
def test_the_steepest_drop_is_between_neighbours(quality: list[float | None], place: int | None) -> None:
    assert diagnose.steepest_drop(quality) == place


def test_the_lost_example_is_the_shortest_and_short_enough() -> None:
    labels, unpruned = np.array([1, 0, 1, 1, 0, 1]), np.array([1, 0, 1, 1, 1, 1])
    pruned = np.array([1, 1, 0, 0, 0, 0])  # lost: 1, 2, 3, 5; example 4 was wrong before
    assert diagnose.lost_example(labels, unpruned, pruned, np.array([3, 9, 7, 7, 2, 8])) == 2
    assert diagnose.lost_example(labels, unpruned, pruned, np.array([3, 41, 41, 41, 2, 40])) == 5
    assert diagnose.lost_example(labels, unpruned, pruned, np.array([3, 41, 41, 41, 2, 41])) is None
    assert diagnose.lost_example(labels, unpruned, unpruned, np.full(6, 5)) is None


def test_regression_scores_are_right_where_they_round_to_the_label() -> None:
    labels = np.array([4.2, 2.6, 0.2], dtype=np.float32)
    unpruned, pruned = np.array([3.8, 3.3, 0.1]), np.array([4.4, 2.1, -3.0])
    assert diagnose.lost_example(labels, unpruned, pruned, np.array([3, 3, 3])) == 1  # -3 counts as 0


def test_a_mask_is_flat_in_order_of_depth() -> None:
    flat = diagnose.flat_mask({"b": 2, "a": 3}, {"a": [0, 2]})
    np.testing.assert_array_equal(flat, [False, False, True, False, True])


class Words:
    """Stands for a tokenizer."""

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
        return [f"w{i}" for i in ids]


class Bench:
    """A tiny model with random weights on random examples: what `diagnose` asks of a workbench."""

    device = torch.device("cpu")
    checkpoint_identity = "c"

    def __init__(self, task, examples: int = 40) -> None:
        self.task, self.processor, self.network = task, Words(), make("bert").eval()
        generator = torch.Generator().manual_seed(3)
        lengths = torch.randint(4, 12, (examples,), generator=generator).tolist()
        words = [torch.randint(3, 52, (length,), generator=generator) for length in lengths]
        label = torch.tensor(0)
        rows = [{"input_ids": w, "attention_mask": torch.ones_like(w), "labels": label} for w in words]
        self.examples = Encoded(rows, {"input_ids": 0})
        self.answers = predict(self.network, self.examples, 8)["predictions"]
        self.sites = find_sites(self.network, self.examples.batch([0]))

    def encoded(self, split: str) -> Encoded:
        assert split == "report"
        return self.examples

    def labels(self, split: str) -> np.ndarray:
        return self.answers  # so that the unpruned model is right about everything

    def predictions(self, removed) -> np.ndarray:
        with masked(self.network, removed):
            return predict(self.network, self.examples, 8)["predictions"]

    def statistics(self, need, seed, size, removed=None):
        with masked(self.network, removed or {}):
            batches = [{**batch, "labels": torch.tensor([0])} for _, batch in self.examples.batches(1, self.device)]
            return collect(self.network, batches[:size], need | {"his", "ae"})


@pytest.fixture
def config(tmp_path):
    names = ("zero", "one", "two")
    task = SimpleNamespace(name="toy", modality="text", metric="accuracy", fingerprint=lambda data_root: "f")
    task.output_names, task.as_answers = lambda data_root: names, lambda labels: labels
    model = Model(name="tiny", source="nowhere")
    return schema.Config(
        model=model,
        task=task,
        criterion=METHODS["random"](),
        sparsity=schema.Sparsity(ratios=[0.2, 0.5, 0.8]),
        calibration=schema.CalibrationSet(size=5),
        name="glue",
        results_dir=str(tmp_path),
        seed=4,
    )


def test_a_diagnosis_is_what_its_parts_say_and_the_analysis_reads_it(config, monkeypatch) -> None:
    bench = Bench(config.task)
    monkeypatch.setattr(diagnose, "evaluator_of", lambda config: bench)
    declared = SimpleNamespace(jobs=[SimpleNamespace(identity={"model": 1, "task": 2}, config=config)])
    assert diagnose._diagnose_all(declared) == 0
    path = diagnose.file_of(config)
    assert path.name == diagnosis.diagnosis_file("tiny", "toy", 4)
    row = {"path": str(path.parent / "run.jsonl"), "model": "tiny", "task": "toy", "experiment": "glue"}
    found = diagnosis.load_diagnosis({**row, "checkpoint": "c"})

    scores = bench.statistics(frozenset({"his"}), 4, 5).his
    masks = {ratio: select(scores, ratio) for ratio in (0.2, 0.5, 0.8)}
    right = {ratio: bench.predictions(mask) == bench.answers for ratio, mask in masks.items()}
    shares = [1.0, *(one.mean() for one in right.values())]
    place = int(np.argmax(-np.diff(shares)))
    assert found.removed.sum() == round(found.ratio * 10)
    assert (found.ratio_before, found.ratio) == ((0.0, 0.2, 0.5)[place], (0.2, 0.5, 0.8)[place])
    cut = sorted(join(scores).tolist())[found.removed.sum() - 1]
    np.testing.assert_array_equal(found.removed, join(scores).numpy() <= cut)
    lost = np.flatnonzero(~right[found.ratio])
    lengths = [bench.examples.length(i) for i in lost]
    assert found.example == lost[int(np.argmin(lengths))]
    words = bench.examples.features[found.example]["input_ids"].tolist()
    assert found.tokens == [f"w{i}" for i in words]
    names = ("zero", "one", "two")
    assert found.seed == 4
    assert found.label == found.unpruned == names[bench.answers[found.example]]
    assert found.pruned == names[bench.predictions(masks[found.ratio])[found.example]] != found.label
    bench.network.set_attn_implementation("eager")
    example = {"input_ids": torch.tensor([words]), "attention_mask": torch.ones(1, len(words), dtype=torch.long)}
    with torch.no_grad():
        layers = bench.network(**example, output_attentions=True).attentions
    np.testing.assert_allclose(found.attention, torch.cat([one[0].mean(dim=1) for one in layers]), atol=1e-6)
    assert found.attention.dtype == np.float32


@pytest.mark.parametrize(("scale", "factor"), [([0, 5], 1), ([10, 20], 2), ([-1, 1], 0.4)])
def test_labels_and_answers_are_on_one_scale(config, monkeypatch, scale, factor) -> None:
    task = TASKS["table"](train="mine.csv", kind="regression", scale=scale)
    monkeypatch.setattr(type(task), "output_names", lambda self, data_root: ())
    bench = Bench(config.task)
    bench.answers = np.linspace(0, 4.8, 40, dtype=np.float32)
    labels = scale[0] + factor * bench.answers
    monkeypatch.setattr(bench, "labels", lambda split: labels)
    answers = lambda removed: bench.answers if not removed else bench.answers[::-1]  # noqa: E731
    monkeypatch.setattr(bench, "predictions", answers)
    monkeypatch.setattr(diagnose, "evaluator_of", lambda config: bench)
    found = diagnose._diagnose(dataclasses.replace(config, task=task, criterion=METHODS["his"]()))
    example = int(found["example"])
    label, other = bench.answers[example], bench.answers[39 - example]
    assert np.rint(label) != np.rint(other)
    assert found["label"] == found["unpruned"] == f"{label:.1f} (0 to 5)" and found["pruned"] == f"{other:.1f} (0 to 5)"


def test_an_answer_is_shown_as_what_it_stands_for() -> None:
    assert diagnose.shown_answer(np.int64(1), ("no", "yes")) == "yes"
    assert diagnose.shown_answer(np.array(["0110"])[0], ("a", "b", "c", "d")) == "b and c"
    assert diagnose.shown_answer(np.array(["00"])[0], ("a", "b")) == "no label"
    assert diagnose.shown_answer("Paris", ()) == "Paris"


def test_names_are_those_of_the_data_that_are_given(config, monkeypatch, tmp_path) -> None:
    bench = Bench(config.task)
    bits = np.array(["00", "01", "10"])
    bench.answers = bits[bench.answers]
    whole = Bench.predictions
    monkeypatch.setattr(bench, "predictions", lambda removed: bits[whole(bench, removed)])
    monkeypatch.setattr(diagnose, "evaluator_of", lambda config: bench)
    asked = []
    config.task.output_names = lambda data_root: asked.append(data_root) or ("rude", "loud")
    (tmp_path / "data").mkdir()
    found = diagnose._diagnose(
        dataclasses.replace(config, data_root=str(tmp_path / "data"), criterion=METHODS["his"]())
    )
    assert set(asked) == {tmp_path / "data"}
    words = {"00": "no label", "01": "loud", "10": "rude"}
    assert found["label"] == words[bench.answers[found["example"]]] != found["pruned"]


def declared_of(config, *criteria):
    return SimpleNamespace(
        jobs=[SimpleNamespace(config=dataclasses.replace(config, criterion=one)) for one in criteria]
    )


def test_options_of_his_are_kept_and_other_criteria_are_said_to_give_way(config, capsys) -> None:
    his, random = METHODS["his"], METHODS["random"]()
    (found,) = diagnose._by_file(declared_of(config, random, his(reduction="token"))).values()
    assert found.criterion == his(reduction="token") and not capsys.readouterr().err
    (found,) = diagnose._by_file(declared_of(config, random, METHODS["l2"]())).values()
    assert found.criterion == his()
    assert capsys.readouterr().err == "HIS is diagnosed in the place of criterion=random,l2.\n"
    with pytest.raises(HiesError, match=r"diagnosis-tiny-toy-s4\.npz would be of two jobs of HIS that differ"):
        diagnose._by_file(declared_of(config, his(), his(reduction="token")))


def test_no_lost_example_and_no_drop_are_one_sentence_each(config, monkeypatch, capsys) -> None:
    bench = Bench(config.task)
    monkeypatch.setattr(diagnose, "evaluator_of", lambda config: bench)
    monkeypatch.setattr(diagnose, "LONGEST_TEXT", 3)
    declared = SimpleNamespace(jobs=[SimpleNamespace(identity={"model": 1, "task": 2}, config=config)])
    assert diagnose._diagnose_all(declared) == 1
    assert not diagnose.file_of(config).exists()
    monkeypatch.setattr(Bench, "predictions", lambda self, removed: self.answers)
    assert diagnose._diagnose_all(declared) == 1
    first, second = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert "at most 3 tokens" in first and "another seed" in first
    assert "HIS loses no quality" in second and "[0.0, 0.2, 0.5, 0.8]" in second


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-m", "calibration.size=4,5"], ["diagnosis-minilm-apidocs-s0.npz", "two jobs"]),
        (["out=small"], ["out is 'small'", "experiments.prune"]),
        (["model=vit_tiny", "task=digits"], ["task=digits", "no tokens"]),
        (["task=nope"], ["task=nope"]),
        (["seed=-1"], ["seed", "-1"]),
    ],
)
def test_a_mistake_is_one_sentence(arguments, words, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr("sys.argv", ["diagnose", f"results_dir={tmp_path}", *arguments])
    monkeypatch.setattr(diagnose, "evaluator_of", job.evaluator_of)
    assert diagnose.main() != 0
    (error,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert all(word in error for word in words)
    assert not list(tmp_path.rglob("*.npz"))
