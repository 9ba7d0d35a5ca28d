"""A workbench on a model that has learnt something: masks reach the model, labels find their outputs, files heal."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers as tf

from hies.errors import HiesError
from hies.evaluation import evaluator as evaluator_module
from hies.evaluation import metrics
from hies.evaluation.calibration import CalibrationSource
from hies.evaluation.evaluation import PassCounter
from hies.evaluation.evaluator import Evaluator
from hies.evaluation.label_order import find_label_order
from hies.evaluation.models import Model, identity_of
from hies.heads.masking import masked
from hies.storage import read_arrays, write_arrays
from hies.tasks import TASKS, ApiDocs, Digits
from hies.tasks.classifier import encode, predict
from hies.training import Finetuning

VIT = {
    "model_type": "vit", "image_size": 8, "patch_size": 2, "num_channels": 1, "hidden_size": 28,
    "num_hidden_layers": 2, "num_attention_heads": 7, "intermediate_size": 31,
}  # fmt: skip
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def workbench(cache, **changes):
    settings = Finetuning(epochs=20, learning_rate=3e-3)
    model = Model(**{"name": "small", "modality": "image", "architecture": VIT, "finetune": settings, **changes})
    return Evaluator(model, Digits(max_examples=211), None, cache, CPU, PassCounter())


@pytest.fixture(scope="module")
def bench(cache):
    return workbench(cache)


def test_the_model_has_learnt_and_answers_in_many_classes(bench):
    assert bench.quality({}, "report") > 60
    assert len(np.unique(bench.predictions({}))) == 10


def test_a_mask_does_what_zeroed_output_columns_do(bench):
    sites = list(bench.sites)
    removed = {sites[0]: [0, 2, 5], sites[1]: [1, 6]}
    found = bench.predictions(removed)
    zeroed = workbench(bench.cache_dir).network
    for site, heads in removed.items():
        weight = zeroed.get_submodule(site).o_proj.weight
        with torch.no_grad():
            weight.view(28, 7, 4)[:, heads] = 0
    expected = predict(zeroed, bench.encoded("report"), 32)["predictions"]
    assert (found == expected).all() and (found != bench.predictions({})).any()


def test_the_loss_of_a_masked_model_is_that_of_its_logits(bench):
    site = next(iter(bench.sites))
    found = bench.evaluate({site: [1, 4]}).losses
    examples = bench.splits.report
    with masked(bench.network, {site: [1, 4]}), torch.no_grad():
        pixels = torch.from_numpy(examples.inputs["pixel_values"])
        logits = bench.network(pixel_values=pixels).logits.double().numpy()
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    expected = -np.log(shares[np.arange(211), examples.labels])
    assert [*found] == ["losses"] and found["losses"].dtype == np.float32
    np.testing.assert_allclose(found["losses"], expected, rtol=1e-4, atol=1e-6)


def test_answers_that_were_cached_without_a_loss_are_read_and_have_none(bench, monkeypatch):
    site = next(iter(bench.sites))
    expected = bench.evaluate({site: [3]})
    for path in (bench.cache_dir / "predictions").glob("*.npz"):
        arrays = read_arrays(path)
        arrays.pop("losses", None)
        write_arrays(path, arrays)
    computed = bench.counter.evaluated
    found = bench.evaluate({site: [3]})
    assert (found.answers == expected.answers).all() and found.losses == {} and found.by_rule == {}
    assert bench.counter.evaluated == computed
    monkeypatch.setattr(bench, "fresh", True)
    bench._renewed.clear()
    np.testing.assert_array_equal(bench.evaluate({site: [3]}).losses["losses"], expected.losses["losses"])


def test_without_any_head_all_answers_change_but_the_model_does_not(bench):
    everything = {name: list(range(site.heads)) for name, site in bench.sites.items()}
    before = {name: tensor.clone() for name, tensor in bench.network.state_dict().items()}
    assert (bench.predictions(everything) == bench.predictions({})).mean() < 0.5
    assert all(torch.equal(before[name], tensor) for name, tensor in bench.network.state_dict().items())


def test_a_checkpoint_that_was_made_here_has_the_names_that_classes_have_now(bench, monkeypatch):
    names = [f"digit {number}" for number in range(10)]
    monkeypatch.setattr(Digits, "output_names", lambda self, data_root: names)
    again = workbench(bench.cache_dir)
    assert again.checkpoint == bench.checkpoint and again.network.config.id2label == dict(enumerate(names))
    assert again.network.config.label2id == {name: number for number, name in enumerate(names)}
    assert [*bench.network.config.id2label.values()] != names


def test_the_first_examples_of_a_split_are_those_of_the_whole_split(bench):
    whole, part = bench.predictions({}, "selection"), bench.predictions({}, "selection", 53)
    assert len(whole) == 297 and (part == whole[:53]).all()
    assert bench.quality({}, "selection", 53) == pytest.approx(100 * (part == bench.labels("selection")[:53]).mean())


def test_the_counter_counts_masks_and_evaluations(cache):
    bench = workbench(cache, finetune=Finetuning(epochs=1))  # another identity: nothing of it is in the cache
    site = next(iter(bench.sites))
    for removed in ({}, {site: [3]}, {site: [3]}, {}):
        bench.predictions(removed)
    assert (bench.counter.asked, len(bench.counter.distinct), bench.counter.evaluated) == (4, 2, 2)


def test_the_keys_of_the_cache_are_those_of_earlier_versions(tmp_path):
    """What is computed already is found again; versions and device, which are part of every key, are stood in for."""
    model = Model(name="small", modality="image", architecture=VIT, finetune=Finetuning(epochs=1))
    bench = Evaluator(model, Digits(max_examples=53), None, tmp_path, CPU)
    bench._setting = ["schema", "versions", "cpu"]
    site = next(iter(bench.sites))
    bench.predictions({})
    bench.predictions({site: [1]}, "selection", 11)
    bench.calibration_loss({site: [2]}, 0, 7)
    bench.statistics(frozenset({"his"}), 0, 7)
    assert Path(bench.checkpoint).name == "small-digits-1f0f18681565"
    assert {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.npz")} == {
        "losses/6d3e4d0e9d6bb6c6.npz",
        "predictions/6f2e0b986de3d51d.npz",
        "predictions/7272b9295a398676.npz",
        "statistics/b8a2623cbdd05531.npz",
    }


def test_neither_processor_nor_threads_are_in_the_keys_of_the_cache(bench):
    packages = {"torch", "transformers", "datasets", "numpy", "scikit-learn"}
    schema, versions, device = bench._setting
    assert (schema, {*versions}, device) == (1, packages, "cpu")


def test_a_checkpoint_keeps_where_it_was_trained_which_is_no_part_of_its_identity(cache, monkeypatch):
    bench = workbench(cache, finetune=Finetuning(epochs=1, seed=3))
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "SVE256")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    identity = bench.checkpoint_identity
    monkeypatch.undo()
    again = workbench(cache, finetune=Finetuning(epochs=1, seed=3))
    assert again.trained_on() == {"trained on": f"cpu SVE256, threads 7, torch {torch.__version__}"}
    (Path(again.checkpoint) / "trained_on.txt").unlink()
    assert (again.trained_on(), identity_of(again.checkpoint)) == ({}, identity)


def test_a_checkpoint_that_changes_before_it_is_loaded_is_refused(tmp_path):
    one, other = (workbench(tmp_path, finetune=Finetuning(epochs=1, seed=seed)) for seed in (3, 4))
    one.predictions({})
    again = workbench(tmp_path, finetune=Finetuning(epochs=1, seed=3))
    again.predictions({})  # read, with nothing loaded
    shutil.copytree(other.checkpoint, again.checkpoint, dirs_exist_ok=True)
    with pytest.raises(HiesError, match="changed since the command began"):
        again.predictions({site: [1] for site in one.sites})


def test_a_model_that_is_trained_on_another_task_keeps_its_older_identity():
    model = Model(architecture={"model_type": "llama"}, modality="language", pretrain_task="docs")
    identity = model.identity(TASKS["hellaswag"]())
    assert identity["home"][0] == "docs" and identity["finetune"] == vars(model.finetune)
    with pytest.raises(HiesError, match="pretrain_task is 'nothing'; it names the task"):
        Model(architecture={"model_type": "llama"}, pretrain_task="nothing").identity(TASKS["hellaswag"]())


def test_the_calibration_loss_is_the_mean_loss_of_the_masked_model(bench):
    site = next(iter(bench.sites))
    losses = []
    with evaluator_module.masked(bench.network, {site: [1]}), torch.no_grad():
        for batch in bench.calibration(3, 11, 64):
            logits = bench.network(pixel_values=batch["pixel_values"]).logits.double()
            losses.append(-logits.log_softmax(-1)[torch.arange(len(logits)), batch["labels"]])
    assert bench.calibration_loss({site: [1]}, 3, 11) == pytest.approx(torch.cat(losses).mean().item(), rel=1e-5)
    assert bench.calibration_loss({}, 3, 11) < bench.calibration_loss({site: list(range(7))}, 3, 11)


def test_own_labels_are_those_of_the_whole_model_whatever_is_masked(cache):
    bench = workbench(cache)
    bench.calibrate_on = CalibrationSource("selection", "model")
    chosen = np.random.default_rng(3).permutation(len(bench.splits.selection))[:11]
    answers = bench.predictions({}, "selection")[chosen]
    every = {site: list(range(7)) for site in bench.sites}
    bench.calibration_loss(every, 3, 11)  # the first to ask for the set: the labels must not be the masked model's
    labels = torch.cat([batch["labels"] for batch in bench.calibration(3, 11, 64)])
    assert sorted(labels.tolist()) == sorted(answers.tolist())
    his = bench.statistics(frozenset({"his"}), 3, 11, {site: [0] for site in bench.sites}).his
    expected = workbench(cache)
    other = expected.statistics(frozenset({"his"}), 3, 11, {site: [0] for site in bench.sites}).his
    assert not all(torch.equal(his[site], other[site]) for site in his)
    with pytest.raises(HiesError, match=f"it can be 1 to {len(bench.splits.selection)}"):
        bench.check_size(len(bench.splits.selection) + 1)


@pytest.mark.parametrize("garbage", [b"", b"PK broken", b"not an archive"])
def test_a_broken_cache_file_is_named_and_made_again(bench, garbage):
    expected = bench.predictions({})
    for path in (bench.cache_dir / "predictions").glob("*.npz"):
        path.write_bytes(garbage)
    with pytest.warns(UserWarning, match="made again"):
        assert (bench.predictions({}) == expected).all()


def test_bfloat16_answers_nearly_always_the_same_and_is_another_identity(bench, cache):
    half = workbench(cache, precision="bfloat16")
    assert half.identity != bench.identity
    same = predict(bench.network, bench.encoded("report"), 32, "bfloat16")["predictions"]
    assert (same == bench.predictions({})).mean() > 0.95


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_only_a_greedy_search_is_made_in_the_precision_of_answers(cache, precision):
    bench, seen = workbench(cache, precision=precision, finetune=Finetuning(epochs=1)), []
    bench.network.classifier.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    bench.statistics(frozenset({"his", "ae"}), 3, 11)
    assert set(seen) == {torch.float32} and bench.heads_total == 14
    seen.clear()
    bench.statistics(frozenset({"greedy"}), 3, 11)
    assert set(seen) == {getattr(torch, precision)}


def permuted(bench, folder, order, names=None):
    """A checkpoint whose output order[i] stands for label i."""
    network = workbench(bench.cache_dir).network
    with torch.no_grad():
        for parameter in (network.classifier.weight, network.classifier.bias):
            parameter[list(order)] = parameter.clone()
    labels = names or [f"LABEL_{i}" for i in range(10)]
    network.config.id2label = dict(enumerate(labels))
    network.save_pretrained(folder)
    return workbench(bench.cache_dir, checkpoint={"digits": str(folder)})


def assert_same_losses(bench, other):
    (one, two) = (evaluator.evaluate({}).losses["losses"] for evaluator in (bench, other))
    np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-6)


def test_a_checkpoint_of_another_label_order_is_mapped(bench, tmp_path):
    order = [3, 0, 1, 2, 4, 5, 6, 7, 9, 8]
    names = [str(order.index(i)) for i in range(10)]
    other = permuted(bench, tmp_path / "named", order, names)
    assert other.label_order == order
    assert (other.predictions({}) == bench.predictions({})).all()
    assert_same_losses(other, bench)
    for site in other.sites:
        ours, theirs = (b.statistics(frozenset({"his"}), 0, 13).his[site] for b in (bench, other))
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-7)


def test_an_order_that_names_do_not_tell_is_found_from_the_answers(bench, tmp_path):
    order = [3, 0, 1, 2, 4, 5, 6, 7, 9, 8]
    other = permuted(bench, tmp_path / "unnamed", order)
    assert other.label_order == order
    assert (other.predictions({}) == bench.predictions({})).all()
    assert_same_losses(other, bench)


class _Network:
    def __init__(self, *names):
        self.config = tf.PretrainedConfig(id2label=dict(enumerate(names)))


LABELS = np.arange(200) % 10


def test_names_settle_the_order_unless_the_answers_contradict_them():
    network, order = _Network(*"1023456789"), np.array([1, 0, *range(2, 10)])
    doubtful = np.where(np.arange(200) < 100, LABELS, order[LABELS])
    for answers in (order[LABELS], doubtful):
        assert find_label_order(Digits(), network, lambda answers=answers: answers, LABELS)[:3] == [1, 0, 2]
    assert find_label_order(Digits(), _Network(*"0123456789"), lambda: LABELS, LABELS) is None
    with pytest.raises(HiesError, match=r"right 40 instead of 0 times.*label_order.digits"):
        find_label_order(Digits(), network, lambda: LABELS, LABELS)


def test_the_names_of_outputs_are_read_by_their_number():
    network = _Network()
    network.config.id2label = {str(i): str(i) for i in reversed(range(10))}
    assert find_label_order(Digits(), network, lambda: LABELS, LABELS) is None


def test_an_order_in_doubt_is_refused_and_a_given_one_is_taken():
    network = _Network(*(f"LABEL_{i}" for i in range(10)))
    constant = np.zeros(200, dtype=np.int64)
    with pytest.raises(HiesError, match=r"label_order.digits=\[0, 1"):
        find_label_order(Digits(), network, lambda: constant, LABELS)
    given = [1, 0, *range(2, 10)]
    with pytest.warns(UserWarning, match="in order, for 1, 0, 2, .*label_order.digits=.1, 0, 2"):
        assert find_label_order(Digits(), network, lambda: np.array(given)[LABELS], LABELS) == given
    assert find_label_order(Digits(), network, lambda: constant, LABELS, given) == given
    with pytest.raises(HiesError, match="order of"):
        find_label_order(Digits(), network, lambda: constant, LABELS, [0] * 10)


@pytest.fixture(scope="module")
def text_model(tmp_path_factory):
    """A two-layer BERT with a word-piece tokenizer of its own, as a folder."""
    folder = tmp_path_factory.mktemp("bert")
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        "return",
        "the",
        "array",
        "of",
        "a",
        "plot",
        "figure",
        "axis",
        "matrix",
        "estimator",
        "fit",
        "data",
    ]
    (folder / "vocab.txt").write_text("\n".join([*words, *letters, *(f"##{letter}" for letter in letters)]))
    tf.BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    config = tf.BertConfig(
        vocab_size=100, hidden_size=35, num_hidden_layers=2, num_attention_heads=5, intermediate_size=13,
        max_position_embeddings=64,
    )  # fmt: skip
    torch.manual_seed(0)
    tf.BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def text_bench(text_model, cache):
    model = Model(name="words", source=str(text_model), max_length=31, finetune=Finetuning(epochs=1))
    task = ApiDocs(libraries=("joblib", "jinja2"), train_per_class=60, selection_per_class=11, report_per_class=17)
    return Evaluator(model, task, None, cache, CPU)


def test_texts_are_tokenised_truncated_padded_and_answered(text_bench):
    report = text_bench.encoded("report")
    assert len(report) == 34 and max(report.length(i) for i in range(34)) == 31
    batch = report.batch([0, 1, 2])
    assert batch["input_ids"].shape == batch["attention_mask"].shape
    alone = [predict(text_bench.network, encode_one(text_bench, i), 1)["predictions"][0] for i in range(5)]
    assert alone == text_bench.predictions({})[:5].tolist()
    assert Path(text_bench.checkpoint, "tokenizer.json").exists()
    assert text_bench.cost.dense.parameters == sum(p.numel() for p in text_bench.network.parameters())


def encode_one(bench, index):
    return encode(bench.splits.report.take([index]), bench.processor, bench.model.max_length)


def test_another_tokenizer_is_another_identity(text_bench, text_model, tmp_path):
    import shutil

    other = shutil.copytree(text_model, tmp_path / "other")
    (other / "tokenizer.json").write_text((other / "tokenizer.json").read_text().replace('"return"', '"yield"'))
    assert Model(source=str(other)).identity(Digits()) != Model(source=str(text_model)).identity(Digits())


def test_a_regression_task_is_fine_tuned_and_answers_in_scores(text_model, cache, glue_copy):
    model = Model(
        name="words", source=str(text_model), max_length=61, finetune=Finetuning(epochs=3, learning_rate=3e-3)
    )
    bench = Evaluator(model, TASKS["stsb"](max_examples=53), glue_copy, cache, CPU)
    scores = bench.predictions({})
    assert scores.shape == (53,) and scores.dtype == np.float32 and bench.network.config.num_labels == 1
    assert bench.label_order is None
    statistics = bench.statistics(frozenset({"his"}), 0, 7)
    assert all((his > 0).any() for his in statistics.his.values())
    value, quality = metrics.quality("pearson", bench.labels("report"), scores)
    assert quality == pytest.approx(50 * (1 + value))


def test_a_task_after_another_starts_from_its_checkpoint(text_model, cache, glue_copy):
    still = {"epochs": 1, "learning_rate": 1e-12}
    model = Model(name="words", source=str(text_model), max_length=61)
    first, alone = TASKS["mnli"](finetune={"epochs": 1, "learning_rate": 3e-3}), TASKS["rte"](finetune=still)
    after = TASKS["rte"](finetune=still, after=first)
    learnt, plain, bench = (Evaluator(model, task, glue_copy, cache, CPU) for task in (first, alone, after))
    weights, before, found = (one.network.bert.state_dict() for one in (learnt, plain, bench))
    for name, tensor in weights.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-9)
    assert any((before[name] - tensor).abs().max() > 1e-4 for name, tensor in weights.items())
    assert bench.network.config.num_labels == 2 and learnt.network.config.num_labels == 3
    assert model.identity(after) != model.identity(alone)
    assert after.fingerprint(glue_copy) != alone.fingerprint(glue_copy) == alone.identity(glue_copy)
