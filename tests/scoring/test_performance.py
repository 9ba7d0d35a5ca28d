"""`hies.evaluate`: loss, accuracy and agreement are those of a computation by hand."""

import copy

import pytest
import torch
import torch.nn.functional as F
from tiny_models import make, make_batch

import hies
from hies.scoring.own_loss import example_losses


def parts(batch, *sizes):
    """A batch as several."""
    pieces = {name: value.split(sizes) for name, value in batch.items()}
    return [{name: pieces[name][i] for name in batch} for i in range(len(sizes))]


def without_labels(batch):
    return [{name: value for name, value in batch.items() if name != "labels"}]


def outputs(model, batch):
    with torch.no_grad():
        return model(**{name: value for name, value in batch.items() if name != "labels"}).logits.double()


@pytest.fixture
def bert():
    return make("bert").eval(), make("bert", seed=1).eval(), make_batch("bert")


def test_a_classifier(bert):
    model, other, batch = bert
    found = hies.evaluate(model, parts(batch, 2, 1), reference=other)
    logits, labels = outputs(model, batch), batch["labels"]
    assert found.examples == 3
    assert found.loss == pytest.approx(float(F.cross_entropy(logits, labels)), rel=1e-6)
    assert found.accuracy == pytest.approx(float((logits.argmax(-1) == labels).double().mean()))
    assert found.agreement == pytest.approx(
        float((logits.argmax(-1) == outputs(other, batch).argmax(-1)).double().mean())
    )
    assert hies.evaluate(model, [batch]).agreement is None


def test_a_language_model_counts_examples_in_its_loss_and_tokens_in_its_answers():
    model, other, batch = make("llama").eval(), make("llama", seed=1).eval(), make_batch("llama")
    found = hies.evaluate(model, iter(parts(batch, 1, 2)), reference=other)
    logits, others = outputs(model, batch)[:, :-1], outputs(other, batch)[:, :-1]
    labels = batch["labels"][:, 1:].masked_fill(batch["attention_mask"][:, :-1] == 0, -100)
    each = [F.cross_entropy(one, label, ignore_index=-100) for one, label in zip(logits, labels, strict=True)]
    assert found.loss == pytest.approx(float(torch.stack(each).mean()), rel=1e-6)
    said, counted = logits.argmax(-1), labels != -100
    assert found.accuracy == pytest.approx(float((said == labels)[counted].double().mean()))
    assert found.agreement == pytest.approx(float((said == others.argmax(-1))[counted].double().mean()))


def test_the_loss_is_the_one_whose_gradient_scores(bert):
    model, _, batch = bert
    assert hies.evaluate(model, [batch]).loss == pytest.approx(example_losses(model, [batch]).mean(), rel=1e-6)
    model.config.problem_type, batch["labels"] = "multi_label_classification", torch.rand(3, 3).round()
    expected = F.binary_cross_entropy_with_logits(outputs(model, batch), batch["labels"].double())
    assert hies.evaluate(model, parts(batch, 2, 1)).loss == pytest.approx(float(expected), rel=1e-6)


def test_a_masked_and_a_pruned_model_perform_alike_and_nothing_is_changed(bert):
    model, _, batch = bert
    model.train()
    removed = {site: [0, 3] for site in hies.find_sites(model, without_labels(batch)[0])}
    with hies.masked(model, removed):
        masked = hies.evaluate(model, [batch])
    small = hies.prune(model, removed)
    assert hies.evaluate(small, [batch]).loss == pytest.approx(masked.loss, rel=1e-6)
    assert masked.loss != hies.evaluate(model, [batch]).loss
    assert hies.evaluate(small, [batch], reference=copy.deepcopy(small)).agreement == 1
    assert model.training and model.config.problem_type is None


def test_a_reference_is_run_as_the_model_is_and_left_as_it_was(bert):
    model, batch = make("llama").eval(), make_batch("llama")
    row = batch["input_ids"][:1, :8].repeat(1, 2)  # two texts packed into one row: apart only without a cache
    packed = {"input_ids": row, "position_ids": torch.arange(8).repeat(2)[None], "labels": row}
    assert hies.evaluate(model, [packed], reference=model).agreement == 1
    model, other, batch = bert
    loss = lambda outputs, batch: F.cross_entropy(outputs.logits, batch["labels"], reduction="none")  # noqa: E731
    hies.evaluate(model, [batch], reference=other, loss=loss)
    assert model.config.problem_type is None and other.config.problem_type is None


def test_a_loss_of_the_callers_and_numbers_have_no_accuracy(bert):
    model, _, batch = bert
    found = hies.evaluate(model, [{**batch, "labels": None}], loss=lambda out, b: out.logits.square().sum(-1))
    assert found.accuracy is None and found.loss == pytest.approx(float(outputs(model, batch).square().sum(-1).mean()))
    model.config.problem_type = "regression"
    found = hies.evaluate(model, [{**batch, "labels": torch.rand(3, 3)}])
    assert found.accuracy is None and found.loss > 0


@pytest.mark.parametrize(
    ("batches", "options", "message"),
    [
        (without_labels, {}, "A batch has no 'labels'"),
        (lambda batch: [], {}, "There is no example"),
        (lambda batch: batch, {}, "batches is a single dict"),
        (lambda batch: 3, {}, "batches is 3"),
        (lambda batch: [batch], {"loss": lambda out, b: out.logits.mean()}, "The loss has the shape"),
        (lambda batch: [batch], {"loss": lambda out, b: out.logits[:, 0] / 0 * 0}, "Example 0 has the loss nan"),
        (lambda batch: [batch], {"reference": make("electra")}, None),
    ],
)
def test_what_cannot_be_evaluated_is_refused(bert, batches, options, message):
    model, _, batch = bert
    if message is None:
        assert 0 <= hies.evaluate(model, batches(batch), **options).agreement <= 1
        model.config.problem_type, batch["labels"] = "regression", torch.rand(3, 3)
        message = "reference is 'ElectraForSequenceClassification'; its answers cannot be compared"
    with pytest.raises(hies.HiesError, match=message):
        hies.evaluate(model, batches(batch), **options)


def test_answers_out_of_another_number_of_classes_are_not_compared(bert):
    model, _, batch = bert
    other = copy.deepcopy(model)
    width = model.classifier.in_features
    other.classifier = torch.nn.Linear(width, model.config.num_labels + 1)
    with pytest.raises(hies.HiesError, match="its answers cannot be compared with the model's; give one with the same"):
        hies.evaluate(model, [batch], reference=other)
