"""Greedy removal against an exhaustive search with masks, and passes that leave layers out against whole ones."""

import functools

import pytest
import torch
import transformers as tf
from architectures import BART, ENCODER, T5
from tiny_models import assert_same_state, make, make_batch, state_of
from transformers import DynamicCache

from hies import HiesError, collect, find_sites, masked, select
from hies.methods.greedy import search as greedy_module
from hies.methods.greedy.greedy import Greedy
from hies.methods.greedy.search import _Passes, removal_order
from hies.scoring.losses import default_loss

THREE = {"hidden_size": 21, "num_attention_heads": 3, "num_hidden_layers": 3}
ONE = {"hidden_size": 7, "num_attention_heads": 1, "num_hidden_layers": 1}
UNEVEN = {"d_model": 30, "encoder_layers": 1, "encoder_attention_heads": 3, "decoder_attention_heads": 2}
FEW = {"num_layers": 1, "num_heads": 3, "decoder_start_token_id": 0}
SMALL = {
    "t5": lambda: tf.T5ForConditionalGeneration(tf.T5Config(**{**T5, **FEW})),
    "bart": lambda: tf.BartForConditionalGeneration(tf.BartConfig(**{**BART, **UNEVEN})),
    "deep": lambda: tf.BertForSequenceClassification(tf.BertConfig(**{**ENCODER, **THREE})),
    "single": lambda: tf.BertForSequenceClassification(tf.BertConfig(**{**ENCODER, **ONE})),
}


def built(name):
    """A model in float64 whose heads all matter."""
    if name not in SMALL:
        return make(name, torch.float64)
    torch.manual_seed(0)
    model = SMALL[name]().double()
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn_like(parameter)
            parameter.copy_(0.3 * noise if parameter.dim() > 1 else parameter + 0.1 * noise)
    return model


def batches_of(name):
    """Two batches of different size and length."""
    batch = make_batch("bert" if name in ("deep", "single") else name, dtype=torch.float64)
    short = {key: value[1:] for key, value in batch.items()}
    words = ("input_ids", "attention_mask") + (("labels",) if name.startswith(("llama", "gemma")) else ())
    return [batch, {key: value[:, :7] if key in words else value for key, value in short.items()}]


def found_by(model, batches, loss=None):
    return removal_order(model, batches, loss or default_loss(model))["greedy"]


@torch.no_grad()
def exhaustive(model, batches, loss=None):
    """Places by trying every head that is left, each time with all of the model: nothing but `masked`."""
    loss, hidden = loss or default_loss(model), () if model.config.is_encoder_decoder else ("labels",)
    inputs = [{key: value for key, value in batch.items() if key not in hidden} for batch in batches]
    gone = {name: [] for name in find_sites(model.eval(), batches[0])}
    left = [(name, head) for name, site in find_sites(model, batches[0]).items() for head in range(site.heads)]
    places = {name: {} for name in gone}
    for place in range(len(left)):
        tried = {}
        for name, head in left:
            with masked(model, {**gone, name: [*gone[name], head]}):
                losses = [loss(model(**one), batch) for one, batch in zip(inputs, batches, strict=True)]
            tried[name, head] = float(torch.cat(losses).double().mean())
        name, head = min(left, key=tried.__getitem__)  # the first of those that are alike
        left.remove((name, head))
        gone[name].append(head)
        places[name][head] = place
    return {name: [float(of_site[head]) for head in sorted(of_site)] for name, of_site in places.items()}


@functools.cache
def exhaustive_of(name):
    """The same of a model as it is built, which several tests compare with."""
    return exhaustive(built(name), batches_of(name))


def as_lists(places):
    return {site: values.tolist() for site, values in places.items()}


@pytest.fixture
def noted(monkeypatch):
    """The searches that were made, with all losses that they compared."""
    searches, start, without = [], _Passes.__init__, _Passes.without

    def begin(self, *args):
        start(self, *args)
        self.noted = []
        searches.append(self)

    def note(self, site, head):
        self.noted.append(without(self, site, head))
        return self.noted[-1]

    monkeypatch.setattr(_Passes, "__init__", begin)
    monkeypatch.setattr(_Passes, "without", note)
    return searches


# --- the order --------------------------------------------------------------------------------------------------------

LEFT_OUT = {"bert": 2, "deep": 3, "vit": 2, "llama": 2, "llama_grouped": 2, "t5": 2, "bart": 3, "albert": 0}


@pytest.mark.parametrize("name", LEFT_OUT)
def test_it_is_the_order_of_an_exhaustive_search(name, noted):
    model, batches = built(name), batches_of(name)
    found = found_by(model, batches)
    assert as_lists(found) == exhaustive_of(name)
    assert all(values.dtype == torch.float64 for values in found.values())
    assert torch.cat(list(found.values())).sort().values.tolist() == list(range(sum(map(len, found.values()))))
    assert torch.cat(list(found.values())).diff().min() < 0  # not by position
    assert len(noted[0].layers) == LEFT_OUT[name]


@pytest.mark.parametrize("name", ["deep", "llama_grouped", "swin", "t5", "bart"])
def test_leaving_layers_out_changes_no_bit(name, noted, monkeypatch):
    model, batches = built(name), batches_of(name)
    found = found_by(model, batches)
    monkeypatch.setattr(_Passes, "_in_order", lambda self, layers: [])
    whole = found_by(model, batches)
    assert as_lists(found) == as_lists(whole)
    assert noted[0].layers and noted[0].noted == noted[1].noted and len(set(noted[0].noted)) > 10


def test_layers_below_that_of_a_head_do_not_run():
    model, (batch, _) = built("deep"), batches_of("deep")
    ran = dict.fromkeys(range(3), 0)
    for number, layer in enumerate(model.bert.encoder.layer):
        layer.output.dense.register_forward_hook(lambda *_, number=number: ran.update({number: ran[number] + 1}))
    places = torch.stack(list(found_by(model, [batch]).values()))
    expected = {0: 3, 1: 4, 2: 5}  # sites, outputs and other numbers; then every layer is tried
    order = places.flatten().argsort().div(3, rounding_mode="floor").tolist()  # the layer that a head goes from
    for step in range(len(order) - 1):
        started = order[step:] + ([order[step - 1]] if step else [])  # one pass keeps the outputs of what was decided
        for layer in range(3):
            expected[layer] += sum(first <= layer for first in started)
    assert ran == expected


def test_the_mean_is_that_over_examples():
    model, batch = built("deep"), make_batch("bert")
    parts = [{key: value[rows] for key, value in batch.items()} for rows in ([0, 1, 2, 2, 2], [0])]
    joined = {key: torch.cat([part[key] for part in parts]) for key in batch}
    apart = [{key: value[[i]] for key, value in batch.items()} for i in (0, 1, 2)]
    found = as_lists(found_by(model, parts))
    assert found == as_lists(found_by(model, [joined])) == as_lists(found_by(model, [*parts, *parts]))
    assert found != as_lists(found_by(model, apart))  # the examples do not agree


def test_equal_losses_go_by_position():
    model, batch = built("deep"), make_batch("bert")
    found = found_by(model, [batch], lambda outputs, batch: torch.ones(3))
    assert torch.cat(list(found.values())).tolist() == list(range(9))
    with torch.no_grad():
        for layer, columns in ((0, slice(7, None)), (2, slice(None, 7))):  # heads 1 and 2, head 0
            model.bert.encoder.layer[layer].attention.output.dense.weight[:, columns] = 0
    places = as_lists(found_by(model, [batch]))
    assert places == exhaustive(model, [batch])
    (_, *first), _, (last, *_) = places.values()
    assert last - first[0] == 2 and first[1] - first[0] == 1  # they change nothing, wherever their turn comes


def test_a_head_that_was_masked_before_goes_as_one_without_effect():
    model, batch = built("deep"), make_batch("bert")
    with masked(model, {"bert.encoder.layer.1.attention.self": [2]}):
        found = as_lists(found_by(model, [batch]))
    with torch.no_grad():
        model.bert.encoder.layer[1].attention.output.dense.weight[:, 14:] = 0
    assert found == exhaustive(model, [batch])


def test_one_head_needs_no_pass(noted):
    model, batch = built("single"), make_batch("bert")
    assert as_lists(found_by(model, [batch])) == {"bert.encoder.layer.0.attention.self": [0.0]}
    assert noted[0].noted == []


def test_every_head_that_is_left_is_tried_and_the_bar_counts_them(noted, monkeypatch):
    bars = []

    class Bar(greedy_module.ProgressBar):
        def __init__(self, **options):
            self.shown = options.pop("shown")
            super().__init__(**options, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
            bars.append(self)

    monkeypatch.setattr(greedy_module, "ProgressBar", Bar)
    for progress in (False, True):
        removal_order(built("albert"), [make_batch("albert")], default_loss(make("albert")), progress)
    assert [len(search.noted) for search in noted] == [5 + 4 + 3 + 2] * 2
    assert [(bar.n, bar.total, bar.shown) for bar in bars] == [(14, 14, False), (14, 14, True)]


# --- layers -----------------------------------------------------------------------------------------------------------


def hand_on(model):
    """Let the first layer hand something on besides its output, which the second reads; it stays between passes."""
    first, second = model.bert.encoder.layer[:2]

    def give(module, inputs, output):
        model.handed = output

    first.intermediate.register_forward_hook(give)
    second.register_forward_pre_hook(lambda module, inputs: (inputs[0] + model.handed.mean(-1, True), *inputs[1:]))


def hand_over(model):
    """The same, but it is gone after the pass, so that one without the first layer fails."""
    hand_on(model)

    def take(module, inputs, output):
        del model.handed

    model.bert.encoder.register_forward_hook(take)


def nest(model):
    """Let a layer be part of another."""
    model.bert.encoder.layer[0].other = model.bert.encoder.layer[1]


# a layer that runs twice; layers that read the keys of others; layers that run twice, in turn
@pytest.mark.parametrize("name", ["albert", "gemma3n_sharing", "hrm_text"])
def test_models_whose_layers_cannot_be_told_apart(name):
    model, batch = make(name), make_batch(name)
    passes = _Passes(model, [batch], default_loss(model))
    with passes.opened():
        assert passes.layers == []
    assert passes.layer_of and None not in passes.layer_of.values()


@pytest.mark.parametrize("change", [hand_on, hand_over, nest])
def test_layers_that_are_not_alone_are_not_left_out(change, noted):
    model, batches = built("deep"), batches_of("deep")
    change(model)
    found = as_lists(found_by(model, batches))
    assert found == exhaustive(model, batches)
    assert noted[0].layers == []
    assert (list(found.values()) == list(exhaustive_of("deep").values())) == (change is nest)


def test_a_layer_may_write_into_what_it_gets(noted):
    model, batches = built("deep"), batches_of("deep")

    def grow(module, inputs):
        inputs[0].mul_(1.5)

    for layer in model.bert.encoder.layer:
        layer.register_forward_pre_hook(grow)
    assert as_lists(found_by(model, batches)) == exhaustive(model, batches)
    assert len(noted[0].layers) == 3


def broken(outputs, batch):
    raise ValueError("a loss of one's own")


@pytest.mark.parametrize("loss", [None, broken])
@pytest.mark.parametrize("name", ["deep", "llama_grouped", "t5"])
def test_the_model_is_as_it_was(name, loss):
    model, batches = built(name), batches_of(name)
    list(model.parameters())[1].requires_grad_(False)
    list(model.modules())[5].eval()  # one module of a model in training
    (layer, *_) = found_layers = greedy_layers(model)
    forward, calls = layer.forward, []

    def own(*args, **kwargs):  # as libraries that move weights between devices do
        calls.append(args)
        return forward(*args, **kwargs)

    layer.forward = own
    model(**{**batches[0]})  # transformers hangs hooks of its own into some models on their first call
    before = state_of(model)
    calls.clear()
    if loss:
        with pytest.raises(ValueError, match="one's own"):
            found_by(model, batches, loss)
    else:
        found_by(model, batches)
    assert_same_state(model, before)
    assert calls and vars(layer)["forward"] is own
    assert not any("forward" in vars(other) for other in found_layers[1:])


def greedy_layers(model):
    kinds = ("BertLayer", "LlamaDecoderLayer", "T5Block")
    return [module for module in model.modules() if type(module).__name__ in kinds]


def test_dropout_is_off():
    model, batches = built("deep"), batches_of("deep")
    assert as_lists(found_by(model.train(), batches)) == as_lists(found_by(model.eval(), batches))


# --- losses and batches -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["single", "t5"])
def test_a_model_sees_labels_only_where_its_decoder_reads_them(name):
    model, seen = built(name), []
    model.register_forward_pre_hook(lambda module, args, kwargs: seen.append("labels" in kwargs), with_kwargs=True)
    found_by(model, batches_of(name))
    assert set(seen) == {name == "t5"}


def test_a_loss_of_ones_own_may_read_what_the_model_makes_of_labels():
    model, batch = built("deep"), make_batch("bert")
    found = found_by(model, [batch], lambda outputs, batch: outputs.loss.expand(3))
    assert as_lists(found) == as_lists(found_by(model, [batch]))
    opposite = found_by(model, [batch], lambda outputs, batch: -outputs.loss.expand(3))
    assert as_lists(opposite) != as_lists(found)


def test_a_large_loss_does_not_hide_those_of_other_examples():
    model, batch = built("deep").float(), make_batch("bert")

    def beside(large):
        return lambda outputs, batch: torch.cat([outputs.logits[:2, 0], torch.tensor([large])])

    assert as_lists(found_by(model, [batch], beside(1e9))) == as_lists(found_by(model, [batch], beside(0.0)))


@pytest.mark.parametrize(
    ("loss", "says"),
    [
        (lambda outputs, batch: outputs.logits[:, 0] / 0, r"without head 0 of site 'bert\.encoder\.layer\.0.* finite"),
        (lambda outputs, batch: outputs.logits, r"shape \(3, 3\); .* one number for each example"),
        (lambda outputs, batch: outputs.logits.mean(), r"shape \(\); "),
    ],
)
def test_a_loss_that_cannot_be_is_named(loss, says):
    with pytest.raises(HiesError, match=says):
        found_by(built("deep"), [make_batch("bert")], loss)


def test_keys_and_values_of_earlier_tokens_are_refused():
    with pytest.raises(HiesError, match="past_key_values"):
        found_by(built("llama"), [{**make_batch("llama"), "past_key_values": DynamicCache()}])


# --- the criterion ----------------------------------------------------------------------------------------------------


def test_the_criterion_removes_the_heads_in_this_order():
    model, batches = built("deep"), batches_of("deep")
    together = collect(model, iter(batches), need=("greedy", "his"))
    alone = collect(model, batches, need=Greedy().need)
    scores, expected = Greedy()(alone), found_by(model, batches)
    for site, values in scores.items():
        assert torch.equal(values, expected[site]) and torch.equal(values, Greedy()(together)[site])
        assert torch.equal(together["his"][site], collect(model, batches, need=("his",))["his"][site])
    for count in range(10):
        removed = select(scores, count / 9)
        assert sorted(scores[site][head] for site, heads in removed.items() for head in heads) == list(range(count))
    with pytest.raises(HiesError, match=r"'greedy' was not collected"):
        Greedy()(collect(model, batches, need=("his",)))
