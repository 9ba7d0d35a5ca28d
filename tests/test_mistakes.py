"""What a person may give by mistake to the library: one sentence says so, and nothing is computed from it."""

import copy
import warnings

import pytest
import torch
from tiny_models import make, make_batch

from hies import HiesError, UnsupportedModelError, collect, evaluate, find_sites, masked, prunable
from hies.methods import HIS, Calibration, LLMPrunerBlock, LLMPrunerChannel, SliceGPT
from hies.methods.greedy.greedy import Greedy
from hies.methods.slicegpt import tuning
from hies.scoring.examples import single_examples
from hies.training import Finetuning


def no_rows(batch):
    return {name: value[:0] for name, value in batch.items()}


def labelled(*labels):
    return lambda batch: {**batch, "labels": torch.tensor(labels)}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (no_rows, "batch has no example"),
        (lambda batch: {}, "batch is an empty dict"),
        (labelled(0, 3, 1), r"the label 3, outside the model's classes 0 to 2"),
        (
            labelled(0, -100, 1),
            r"the label -100, outside the model's classes 0 to 2",
        ),
    ],
)
@pytest.mark.parametrize("need", ["his", "greedy"])
def test_a_batch_that_says_nothing(change, says, need):
    with pytest.raises(HiesError, match=says):
        collect(make("bert"), [change(make_batch("bert"))], (need,))


def test_the_name_of_a_statistic_instead_of_several():
    with pytest.raises(HiesError, match=r"need is the string 'his'; give a tuple of names, such as \('his',\)"):
        collect(make("bert"), [make_batch("bert")], "his")


METHODS = [HIS(), Greedy(), LLMPrunerBlock(keep_first=0, keep_last=0), LLMPrunerChannel(), SliceGPT()]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_a_calibration_set_of_any_form_serves_every_method(method):
    model, batch = make("bert").eval(), make_batch("bert")
    answers = []
    for batches in ([batch], iter([batch]), ({**batch, "return_dict": True},)):
        with method.pruned(model, Calibration(batches), 0.4) as small, torch.no_grad():
            answers.append(small(**batch).logits)
    assert torch.equal(answers[0], answers[1]) and torch.equal(answers[0], answers[2])


def test_a_model_of_ones_own_takes_no_labels():
    class Logits(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inside = make("bert").eval()

        def forward(self, input_ids, attention_mask):
            return self.inside(input_ids, attention_mask)

    model, batch = Logits(), make_batch("bert")
    with HIS().pruned(model, Calibration([batch]), 1.0), torch.no_grad():
        silent = model(batch["input_ids"], batch["attention_mask"]).logits
    assert not torch.equal(silent, model(batch["input_ids"], batch["attention_mask"]).logits)


def test_a_calibration_set_that_is_none():
    with pytest.raises(HiesError, match=r"single dict; give a list of them, such as \[batch\]"):
        Calibration(make_batch("bert"))
    with pytest.raises(HiesError, match="at least one calibration example"):
        Calibration([])


@pytest.mark.parametrize("ratio", [0.2, 0.34, 0.7])
def test_whole_groups_go_from_a_model_that_is_given_as_from_one_that_is_configured(ratio):
    model, batch = make("llama_grouped").eval(), make_batch("llama_grouped")
    criterion = LLMPrunerBlock(keep_first=0, keep_last=0)
    sizes = {site: found.heads // found.key_heads for site, found in find_sites(model, batch).items()}
    expected = criterion.select(criterion(collect(model, [batch], criterion.need)), ratio, sizes)
    assert any(expected.values()) and all(len(heads) % sizes[site] == 0 for site, heads in expected.items())
    with criterion.pruned(model, Calibration([batch]), ratio) as small, torch.no_grad():
        found = small(**batch).logits
    with masked(model, expected), torch.no_grad():
        assert torch.equal(found, model(**batch).logits)


@pytest.mark.parametrize("knobs", [{"keep_first": 1.5}, {"keep_last": -1}, {"keep_last": None}, {"keep_first": "2"}])
def test_layers_that_cannot_be_counted(knobs):
    (name, value), *_ = knobs.items()
    with pytest.raises(HiesError, match=rf"^{name} is {value!r}; it must be 0 or more whole layers"):
        LLMPrunerBlock(**knobs)


def test_a_layer_that_runs_twice_is_not_sliced():
    model = make("bert").eval()
    model.bert.encoder.layer[1] = model.bert.encoder.layer[0]
    with pytest.raises(UnsupportedModelError, match="cannot be sliced: its layers are not all different ones"):
        SliceGPT().check(model)


def test_weights_that_two_layers_share_count_once():
    apart, shared = make("bert", torch.float64).eval(), make("bert", torch.float64).eval()
    for name in ("query", "key", "value"):
        first, second = (getattr(layer.attention.self, name) for layer in shared.bert.encoder.layer)
        second.weight = first.weight
        getattr(apart.bert.encoder.layer[1].attention.self, name).weight.data.copy_(first.weight)
    calibration = Calibration([make_batch("bert", dtype=torch.float64)])
    criterion = LLMPrunerChannel(taylor="vectorised")
    # what the loss changes by if a channel goes from all matrices, however many layers use one
    expected = criterion.saliences(apart, calibration)
    torch.testing.assert_close(criterion.saliences(shared, calibration), expected)


def test_memory_that_ends_while_tuning_names_the_batch_of_the_tuning(monkeypatch):
    def ends(*args):
        raise torch.OutOfMemoryError("CUDA out of memory")

    class Tuner:
        LoraConfig = staticmethod(lambda **options: None)
        LoraModel = staticmethod(lambda *options: None)

    monkeypatch.setattr(tuning, "finetune", ends)
    monkeypatch.setattr(tuning, "lora", lambda: Tuner)
    train = type("Train", (), {"__len__": lambda self: 3, "features": [1, 2, 3], "pad": {}})()
    with pytest.raises(HiesError, match=r"^tune_batch_size is 7; .* give a smaller one"):
        tuning.recover(make("bert"), train, Finetuning(1, 1e-3, 7), 2, 3, "float32")


def test_positions_of_three_kinds_are_those_of_each_example():
    positions = torch.arange(3 * 3 * 5).view(3, 3, 5)
    (first, second, third) = single_examples({"input_ids": torch.ones(3, 5), "position_ids": positions})
    for place, example in enumerate((first, second, third)):
        assert torch.equal(example["position_ids"], positions[:, [place]])


@pytest.mark.parametrize("look", [find_sites, prunable])
def test_a_batch_that_cannot_be_read_is_one_sentence_wherever_it_is_given(look):
    model, batch = make("bert").eval(), {"input_ids": torch.ones(3, 7, dtype=torch.long)}
    with pytest.raises(HiesError, match="batch is 'list'; give one dict"):
        look(model, [batch])
    most = model.config.max_position_embeddings
    with pytest.raises(HiesError, match=f"{most + 3} tokens and the model {most} positions: cut them"):
        look(model, {"input_ids": torch.ones(2, most + 3, dtype=torch.long)})
    with pytest.raises(
        HiesError, match=r"T5ForConditionalGeneration cannot read the batch \(ValueError: .*forward takes"
    ):
        look(make("t5").eval(), batch)
    with pytest.raises(HiesError, match="cannot read the batch"):
        look(model, {**batch, "weight": torch.ones(3)} | {"input_ids": "a text"})


def test_a_model_that_was_made_in_inference_mode_says_so():
    with torch.inference_mode():
        model = make("bert").eval()
    for need in (("his",), ("ae",)):
        with pytest.raises(HiesError, match=r"made under torch.inference_mode.*copy.deepcopy"):
            collect(model, [make_batch("bert")], need)
    assert collect(copy.deepcopy(model), [make_batch("bert")]).examples == 3


def test_what_a_trainer_divides_by_changes_no_loss_of_an_example():
    model, batch = make("llama").eval(), make_batch("llama")
    counted = {**batch, "num_items_in_batch": torch.tensor(7)}
    one, other = (collect(model, [each], ("his",)).his for each in (batch, counted))
    assert all(torch.equal(one[site], other[site]) for site in one)
    assert evaluate(model, [batch]) == evaluate(model, [counted])


def test_a_mask_for_each_kind_of_layer():
    model, batch = make("gemma2").eval(), make_batch("gemma2")
    tokens = batch["input_ids"].shape[1]
    shown = torch.ones(tokens, tokens, dtype=torch.bool).tril() & batch["attention_mask"].bool()[:, None, None]
    near = shown & ~torch.ones(tokens, tokens, dtype=torch.bool).tril(-model.config.sliding_window)
    kinds = {"full_attention": shown, "sliding_attention": near}
    added = {kind: torch.zeros(one.shape).masked_fill(~one, torch.finfo().min) for kind, one in kinds.items()}
    masks = {**batch, "attention_mask": added}
    one, other = (collect(model, [each]) for each in (batch, masks))
    for site in one.heads:
        torch.testing.assert_close(one.his[site], other.his[site], rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(one.ae[site], other.ae[site], rtol=1e-4, atol=1e-6)
    assert evaluate(model, [masks]).loss == pytest.approx(evaluate(model, [batch]).loss, rel=1e-5)


@pytest.mark.parametrize(("name", "apart"), [("llama", True), ("falcon", False), ("bloom", False), ("opt", False)])
@pytest.mark.parametrize("need", ["ae", "his"])
def test_packed_examples_that_see_each_other_are_said(name, apart, need):
    words, positions = torch.randint(3, 29, (1, 7)), torch.tensor([[0, 1, 2, 3, 0, 1, 2]])
    batch = {"input_ids": words, "labels": words, "position_ids": positions}
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        collect(make(name).eval(), [batch], (need,))
    assert sum("packed there see each other" in str(one.message) for one in said) == (0 if apart else 1)
