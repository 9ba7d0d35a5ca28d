"""The loss of an example is the one that the model computes of it alone, whatever its head and whatever wraps it."""

import copy

import numpy as np
import peft
import pytest
import torch
import torch.nn.functional as F
import transformers as tf
from architectures import CLASSES, WORDS
from tiny_models import BATCH, TOKENS, make, make_batch
from torch import nn
from tqdm import tqdm

from hies import HiesError, collect
from hies.batching import Encoded
from hies.methods.llm_pruner.taylor import head_saliences
from hies.scoring.examples import examples_in, single_examples
from hies.scoring.losses import DefaultLoss, default_loss, inputs_of
from hies.scoring.own_loss import example_losses, with_loss
from hies.training import Finetuning
from hies.training.loop import finetune


def whole(high, *shape):
    return torch.randint(0, high, shape, generator=torch.Generator().manual_seed(7))


def tokens_of(name):
    return {key: value for key, value in make_batch(name).items() if key != "labels"}


def with_head(kind, name, **changes):
    """A model of another class with the sizes of `name`, its weights large enough for the examples to differ."""
    config = copy.deepcopy(make(name).config)
    for key, value in changes.items():
        setattr(config, key, value)
    model = getattr(tf, kind)(config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model


def spans():
    return {"start_positions": torch.tensor([0, 3, 2]), "end_positions": torch.tensor([4, 3, 9])}


def choices(name):
    batch = {key: torch.stack([value, value.flip(1)], 1) for key, value in tokens_of(name).items()}
    return {**batch, "attention_mask": torch.ones_like(batch["input_ids"]), "labels": torch.tensor([1, 0, 1])}


def tagged(words=CLASSES):
    batch = tokens_of("bert")
    return {**batch, "labels": whole(words, BATCH, TOKENS).masked_fill(batch["attention_mask"] == 0, -100)}


def pictures(**labels):
    return {"pixel_values": make_batch("vit")["pixel_values"], **labels}


def boxes():
    boxes = 0.2 + 0.5 * torch.rand(BATCH, 2, 4, generator=torch.Generator().manual_seed(3))
    return [{"class_labels": torch.tensor([0, i]), "boxes": box} for i, box in enumerate(boxes)]


SOUND = {"conv_dim": (8, 8), "conv_stride": (5, 4), "conv_kernel": (10, 8), "num_feat_extract_layers": 2}
SIZES = {"hidden_size": 20, "num_hidden_layers": 2, "num_attention_heads": 5, "intermediate_size": 13, "vocab_size": 11}


def listener(kind, **changes):
    torch.manual_seed(0)
    options = {**SIZES, **SOUND, "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2, **changes}
    return getattr(tf, kind)(tf.Wav2Vec2Config(**options)).eval()


def heard(**labels):
    return {"input_values": torch.randn(BATCH, 400, generator=torch.Generator().manual_seed(5)), **labels}


def transcripts():
    return torch.tensor([[3, 4, 5, -100], [6, 7, 8, 9], [2, 9, -100, -100]])


MULTI, REGRESSION = {"problem_type": "multi_label_classification"}, {"problem_type": "regression"}
SEVERAL = whole(2, BATCH, CLASSES).float()
# (class, sizes or model, batch, config, whether a formula gives it for a whole batch)
HEADS = {
    "one class": ("BertForSequenceClassification", "bert", lambda: make_batch("bert"), {}, True),
    "a column": (
        "BertForSequenceClassification",
        "bert",
        lambda: tokens_of("bert") | {"labels": whole(3, 3, 1)},
        {},
        True,
    ),
    "several": ("BertForSequenceClassification", "bert", lambda: tokens_of("bert") | {"labels": SEVERAL}, {}, True),
    "one of two, BCE": (
        "BertForSequenceClassification",
        "bert",
        lambda: tokens_of("bert") | {"labels": SEVERAL[:, :1]},
        {**MULTI, "num_labels": 1},
        True,
    ),
    "regressions": (
        "DistilBertForSequenceClassification",
        "distilbert",
        lambda: tokens_of("distilbert") | {"labels": torch.randn(BATCH, CLASSES)},
        REGRESSION,
        True,
    ),
    "tokens": ("BertForTokenClassification", "bert", tagged, {}, True),
    "masked words": ("BertForMaskedLM", "bert", lambda: tagged(WORDS), {}, True),
    "next sentence": (
        "BertForNextSentencePrediction",
        "bert",
        lambda: tokens_of("bert") | {"labels": whole(2, 3)},
        {},
        True,
    ),
    "choice": ("BertForMultipleChoice", "bert", lambda: choices("bert"), {}, True),
    "answer": ("BertForQuestionAnswering", "bert", lambda: tokens_of("bert") | spans(), {"num_labels": 2}, False),
    "two losses": (
        "BertForPreTraining",
        "bert",
        lambda: tagged(WORDS) | {"next_sentence_label": whole(2, BATCH)},
        {},
        False,
    ),
    "causal": ("LlamaForCausalLM", "llama_grouped", lambda: make_batch("llama_grouped"), {}, True),
    "causal, left": ("LlamaForCausalLM", "llama_grouped", lambda: make_batch("llama_grouped", "left"), {}, True),
    "causal answer": ("GPT2ForQuestionAnswering", "gpt2", lambda: tokens_of("gpt2") | spans(), {}, False),
    "causal class": (
        "LlamaForSequenceClassification",
        "llama_grouped",
        lambda: tokens_of("llama_grouped") | {"labels": whole(2, BATCH)},
        {},
        True,
    ),
    "sequence": ("T5ForConditionalGeneration", "t5", lambda: make_batch("t5"), {}, True),
    "decoder that does not shift": ("BartForCausalLM", "bart", lambda: tagged(WORDS), {}, False),
    "picture": ("ViTForImageClassification", "vit", lambda: make_batch("vit"), {}, True),
    "segments": (
        "SegformerForSemanticSegmentation",
        "segformer",
        lambda: pictures(labels=whole(3, BATCH, 12, 12)),
        {},
        False,
    ),
    "boxes": ("DetrForObjectDetection", "detr", lambda: {**tokens_of("detr"), "labels": boxes()}, {}, False),
    "ctc": (listener, "Wav2Vec2ForCTC", lambda: heard(labels=transcripts()), {}, False),
    "ctc, mean": (
        listener,
        "Wav2Vec2ForCTC",
        lambda: heard(labels=transcripts()),
        {"ctc_loss_reduction": "mean"},
        False,
    ),
    "sound": (listener, "Wav2Vec2ForSequenceClassification", lambda: heard(labels=whole(2, BATCH)), {}, True),
}


def example_of(kind):
    builds, name, batch, changes, by_formula = HEADS[kind]
    model = with_head(builds, name, **changes) if isinstance(builds, str) else builds(name, **changes)
    return model, batch(), by_formula


def without_padding(example):
    """The first word behind padding on the left carries no loss, as it would in the text alone."""
    mask, labels = example.get("attention_mask"), example.get("labels")
    if mask is None or not isinstance(labels, torch.Tensor) or labels.shape != mask.shape or mask[0, 0]:
        return example
    return {**example, "labels": labels.masked_fill(mask.cumsum(1) <= 1, -100)}


@torch.no_grad()
def own_losses(model, batch):
    """The model's own loss of every example alone."""
    examples = map(without_padding, single_examples(batch))
    return torch.stack([copy.deepcopy(model)(**example).loss.reshape(()) for example in examples])


@torch.no_grad()
def found_losses(model, batch):
    batches, loss = with_loss(model, [batch])
    return torch.cat([loss(model(**inputs_of(model, one, loss)), one) for one in batches]), isinstance(
        loss, DefaultLoss
    )


@pytest.mark.parametrize("kind", HEADS)
def test_the_loss_of_every_example_is_the_models_own(kind):
    model, batch, by_formula = example_of(kind)
    expected = own_losses(model, batch)
    assert expected.isfinite().all() and expected.std() > 1e-3  # the examples differ, so the comparison says something
    before, chance = copy.deepcopy(model.config.to_dict()), torch.get_rng_state()
    losses, found = found_losses(model, batch)
    torch.testing.assert_close(losses, expected, rtol=1e-4, atol=1e-5)
    assert found == by_formula
    assert torch.equal(torch.get_rng_state(), chance) and model.config.to_dict() == before


@pytest.mark.parametrize("kind", ["two losses", "ctc", "boxes"])
def test_importance_is_that_of_the_models_own_loss(kind):
    model, batch, _ = example_of(kind)
    before = model.config.to_dict()
    found = collect(model, [batch], need=("his", "ae"))
    expected = collect(model, single_examples(batch), loss=lambda outputs, batch: outputs.loss.reshape(1))
    assert found.examples == BATCH and model.config.to_dict() == before
    for site in found.heads:
        assert torch.equal(found["his"][site], expected["his"][site])


def test_taylor_saliences_and_losses_of_the_calibration_set_are_those_of_the_own_loss():
    model, batch, _ = example_of("one of two, BCE")
    np.testing.assert_allclose(example_losses(model, [batch]), own_losses(model, batch), rtol=1e-5)
    sequences = make("t5").eval(), make_batch("t5")
    np.testing.assert_allclose(example_losses(*sequences[:1], [sequences[1]]), own_losses(*sequences), rtol=1e-5)

    def squared_error(outputs, batch):
        return (outputs.logits[:, 0] - batch["labels"][:, 0]) ** 2

    name = "taylor/query/first"
    found = collect(model, [batch], need=("taylor",))[name]
    (own, other) = (
        head_saliences(model, [batch], loss)[name]
        for loss in (lambda outputs, batch: outputs.loss.reshape(1), squared_error)
    )
    for site, values in found.items():
        torch.testing.assert_close(values, own[site], rtol=1e-4, atol=1e-7)
        assert (values - other[site]).abs().max() > 1e-3


def test_a_model_is_trained_on_its_own_loss():
    model, batch, _ = example_of("one of two, BCE")
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    plain = copy.deepcopy(model).train()
    plain(**batch).loss.backward()
    examples = Encoded([{key: value[i] for key, value in batch.items()} for i in range(BATCH)], {})
    before = model.classifier.weight.detach().clone()
    finetune(model, examples, lambda model: 1.0, Finetuning(epochs=1, learning_rate=1e-3, warmup=0.0), "test")
    step = model.classifier.weight.detach() - before
    assert torch.equal(step.sign(), -plain.classifier.weight.grad.sign())  # so is AdamW's first step


# --- modules around a model -------------------------------------------------------------------------------------------


class Wrapper(nn.Module):
    """A module with something beside the model, as of a training library."""

    def __init__(self, model, **beside):
        super().__init__()
        self.model, self.metric = model, nn.CrossEntropyLoss()
        for name, module in beside.items():
            setattr(self, name, module)

    def forward(self, **batch):
        return self.model(**batch)


class Silent(Wrapper):
    """The labels do not reach the model."""

    def forward(self, input_ids, attention_mask=None):
        return {"logits": self.model(input_ids, attention_mask=attention_mask).logits}


class Headed(Wrapper):
    """A head of one's own on a model without one."""

    def forward(self, input_ids, attention_mask=None):
        states = self.model(input_ids, attention_mask=attention_mask).last_hidden_state
        return {"logits": self.head(states[:, 0] if self.of_text else states)}


def importance(model, batch, **options):
    return torch.cat([values.flatten() for values in collect(model, [batch], need=("his",), **options)["his"].values()])


@pytest.mark.parametrize(
    ("name", "wrap"),
    [
        *((name, Wrapper) for name in ("llama_grouped", "gpt2", "t5", "bert", "vit")),
        *((name, Silent) for name in ("llama_grouped", "bert", "bert_regression")),
        ("llama_grouped", lambda model: Wrapper(Wrapper(model, head=nn.Linear(3, 2)))),
        ("llama_grouped", lambda model: Wrapper(model, frozen=make("bert"))),  # it returns its loss
    ],
)
def test_a_module_around_one_model_has_the_importance_of_the_model(name, wrap):
    model, batch = make(name).eval(), make_batch(name)
    torch.testing.assert_close(importance(wrap(model), batch), importance(model, batch), rtol=1e-5, atol=1e-6)


def test_prompt_tuning_is_scored_by_its_own_loss():
    torch.manual_seed(0)
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
    model, batch = peft.get_peft_model(make("llama_grouped"), config).eval(), make_batch("llama_grouped")
    expected = [
        importance(model, one, loss=lambda outputs, _: outputs.loss.reshape(1)) for one in single_examples(batch)
    ]
    expected = torch.stack([one.view(-1, 6) for one in expected], dim=1)  # [sites, examples, heads]
    torch.testing.assert_close(importance(model, batch).view(-1, BATCH, 6), expected)


def headed(name, base, outputs, of_text):
    torch.manual_seed(0)
    model = Headed(getattr(make(name), base), head=nn.Linear(make(name).config.hidden_size, outputs)).eval()
    model.of_text = of_text
    return model


def test_classes_of_a_head_of_ones_own_need_no_loss():
    model, batch = headed("bert", "bert", 2, of_text=True), {**tokens_of("bert"), "labels": torch.tensor([0, 1, 1])}

    def loss(outputs, batch):
        return F.cross_entropy(outputs["logits"], batch["labels"] + batch["offset"], reduction="none")

    own = importance(model, {**batch, "offset": torch.zeros(BATCH, dtype=torch.int64)}, loss=loss)  # not for forward
    torch.testing.assert_close(importance(model, batch), own)


def words_twice():
    return Silent(make("llama_grouped"), teacher=make("llama_grouped"))


def tupled(name):
    model = make(name)
    model.config.return_dict = False
    return model


@pytest.mark.parametrize(
    ("model", "batch", "message"),
    [
        (words_twice, lambda: make_batch("llama_grouped"), "Silent computes no loss itself.*pass loss="),
        (lambda: headed("llama_grouped", "model", WORDS, False), lambda: make_batch("llama_grouped"), "no loss itself"),
        (
            lambda: headed("bert", "bert", 1, True),
            lambda: tokens_of("bert") | {"labels": torch.rand(3)},
            "no loss itself",
        ),
        (lambda: headed("bert", "bert", 2, True), lambda: {**make_batch("bert"), "typo": 1}, "Headed takes no 'typo'"),
        (
            lambda: Silent(make("t5")),
            lambda: make_batch("t5"),
            "Silent cannot read a calibration batch .*inputs_embeds",
        ),
        (
            lambda: with_head("BertForSequenceClassification", "bert", **MULTI),
            lambda: tokens_of("bert") | {"labels": SEVERAL.long()},
            "own loss cannot read the labels .*Long.*pass loss=",
        ),
        (
            lambda: with_head("BertForQuestionAnswering", "bert", num_labels=2),
            lambda: make_batch("bert"),
            "no logits .*; load it with a task's head",
        ),
        (lambda: tupled("bert"), lambda: make_batch("bert"), "no logits in its tuple; set return_dict=True"),
        (lambda: make("bert"), lambda: {**make_batch("bert"), "labels": torch.tensor([0, 7, 1])}, "label 7, outside"),
        (lambda: make("bert"), lambda: {**make_batch("bert"), "labels": [0, 1, 2]}, "labels is 'list'; give a torch"),
    ],
)
def test_a_loss_that_is_not_known_is_refused(model, batch, message):
    with pytest.raises(HiesError, match=message):
        collect(model(), [batch()])


def test_a_cache_of_keys_and_values_does_not_grow():
    model, batch = make("llama_grouped").eval(), make_batch("llama_grouped")
    del batch["attention_mask"]
    with torch.no_grad():
        earlier = model(batch["input_ids"]).past_key_values
        collect(model, [{**batch, "past_key_values": copy.deepcopy(earlier), "use_cache": True}])
    length = earlier.get_seq_length()
    given = copy.deepcopy(earlier)
    with_loss(model, [{**batch, "past_key_values": given}])
    assert given.get_seq_length() == length


def test_batches_of_a_generator_all_count_and_are_read_once():
    model, batch = make("bert"), make_batch("bert")
    reads = []

    def batches():
        for one in single_examples(batch):
            reads.append(one)
            yield one

    assert collect(model, batches()).examples == len(reads) == BATCH


def test_a_generator_may_give_every_batch_in_the_same_memory():
    model, examples = make("bert"), single_examples(make_batch("bert"))
    held = {name: torch.empty_like(value) for name, value in examples[0].items()}

    def batches():
        for one in examples:
            yield {name: held[name].copy_(value) for name, value in one.items()}

    found, right = collect(model, batches()), collect(model, examples)
    assert all(torch.equal(found[name][site], of) for name in ("his", "ae") for site, of in right[name].items())


# --- losses in which examples mix -------------------------------------------------------------------------------------


def contrastive(outputs, batch):
    return F.cross_entropy(outputs.logits_per_image, torch.arange(len(outputs.logits_per_image)), reduction="none")


def below_the_mean(outputs, batch):
    each = default_loss(make("bert"))(outputs, batch)
    return each - each.mean()


@pytest.mark.parametrize("need", [("his",), ("his_token",), ("taylor",)])
def test_a_loss_of_ones_own_in_which_examples_mix_is_refused(need):
    with pytest.raises(HiesError, match=r"loss of an example depends on the others .*contrastive"):
        collect(make("clip_pair"), [make_batch("clip_pair")], need, contrastive)
    with pytest.raises(HiesError, match="depends on the others"):
        collect(make("bert"), [make_batch("bert")], need, below_the_mean)
    fine = collect(make("bert"), [make_batch("bert")], need, lambda outputs, batch: outputs.logits[:, 0])
    assert fine.examples == BATCH


def test_the_contrastive_loss_of_a_model_is_refused():
    batch = make_batch("clip_pair")
    with pytest.raises(HiesError, match=r"loss of CLIPModel depends on what an example is batched with"):
        collect(make("clip_pair"), [{**batch, "return_loss": True}])
    with pytest.raises(HiesError, match="depends on no head"):  # alone, an example has nothing to be told from
        collect(make("clip_pair"), single_examples(batch), loss=contrastive)
    with pytest.raises(HiesError, match="does not depend on the model's outputs"):
        collect(make("bert"), [make_batch("bert")], loss=lambda outputs, batch: torch.ones(BATCH))


# --- examples ---------------------------------------------------------------------------------------------------------


def test_what_counts_examples_does_not_depend_on_the_order_of_a_batch():
    words, tiles = torch.ones(2, 7, dtype=torch.int64), torch.ones(5, 3, 4, 4)
    for batch in ({"pixel_values": tiles, "input_ids": words}, {"input_ids": words, "pixel_values": tiles}):
        assert examples_in(batch) == 2
    assert examples_in({"pixel_values": tiles, "labels": torch.zeros(2, 1)}) == 2
    assert examples_in({"use_cache": False, "pixel_values": tiles}) == 5


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ((torch.ones(3, 5), torch.ones(3)), r"batches is \['tuple'\]; a batch is a dict"),
        ([torch.ones(3, 5)], r"batches is \['list'\]"),
        ({"input_ids": torch.ones(5)}, r"'input_ids' has the shape \(5,\) without a batch dimension"),
        ({"input_ids": torch.ones(1, 5), "labels": torch.tensor(1)}, r"'labels' has the shape \(\)"),
        ({"inputs_embeds": torch.ones(4, 5)}, r"give inputs_embeds\[None\]"),
        ({"input_ids": [[1, 2], [3, 4]]}, "input_ids is 'list'; give a torch tensor"),
        ({"input_ids": np.ones((3, 5))}, "input_ids is 'ndarray'"),
        ({"input_ids": torch.ones(3, 5), "labels": torch.ones(2)}, "2 rows of 'labels', 3 rows of 'input_ids'"),
        ({"use_cache": True}, "no tensor with rows of examples among use_cache"),
        ({"input_ids": torch.ones(0, 5)}, "no example"),
    ],
)
def test_batches_without_examples_are_named(batch, message):
    for need in ("his", "ae"):
        with pytest.raises(HiesError, match=message):
            collect(make("bert"), [batch], need=(need,))


@pytest.mark.parametrize("wrapped", [tqdm, lambda batches, **options: map(dict, batches)])
def test_batches_that_are_given_once_are_all_read(wrapped):
    batches = (make_batch("bert") for _ in range(3))
    assert collect(make("bert"), wrapped(batches, disable=True)).examples == 3 * len(make_batch("bert")["labels"])


@pytest.mark.parametrize(
    ("later", "sentence"),
    [
        ({"start_positions": torch.tensor([1, 2, 99]), "end_positions": torch.tensor([2, 5, 99])}, "is nan"),
        ({}, "computes no loss"),
    ],
)
def test_a_later_example_without_a_loss_of_its_own_is_refused(later, sentence):
    config = copy.deepcopy(make("bert").config)
    config.num_labels = 2  # where an answer starts, and where it ends
    model, batch = tf.BertForQuestionAnswering(config).eval(), {"input_ids": torch.randint(1, 30, (3, 7))}
    spans = {"start_positions": torch.tensor([1, 2, 3]), "end_positions": torch.tensor([2, 5, 3])}
    with pytest.raises(HiesError, match=sentence):
        collect(model, [{**batch, **spans}, {**batch, **later}])


def test_a_label_that_the_models_own_loss_cannot_read_is_named():
    model, words = tf.BertForPreTraining(make("bert").config).eval(), torch.randint(1, 30, (3, 7))
    good = {"input_ids": words, "labels": words, "next_sentence_label": torch.tensor([0, 1, 1])}
    assert collect(model, [good, good]).examples == 6
    with pytest.raises(HiesError, match=r"cannot read a calibration example \(IndexError: Target 7"):
        collect(model, [good, {**good, "next_sentence_label": torch.tensor([0, 1, 7])}])
