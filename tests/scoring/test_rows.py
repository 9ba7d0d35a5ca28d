"""Pictures and sound in uneven number per example, and batches with and without them, against examples one by one."""

import pytest
import torch
from multimodal_models import PICTURE
from tiny_models import make, make_batch
from torch import nn

import hies
from hies import HiesError, collect
from hies.scoring import rows

TOKENS = 5
# name -> tokens that stand for a picture, its shape; padded: [examples, pictures, ...], filled up with zeros
MODELS = {"llava": (9, (3, 12, 12)), "internvl": (4, (3, 12, 12)), "idefics3": (1, (3, 12, 12))}
PADDED = ("idefics3",)
CLOSE = {"atol": 1e-6, "rtol": 1e-4}  # norms are computed in float32
NEED = ("his", "his_token", "ae", "output_norm")


def example(name, pictures, generator):
    """A batch of one example with some pictures."""
    tokens, shape = MODELS[name]
    words = torch.randint(3, 48, (1, TOKENS), generator=generator)
    words = torch.cat([torch.full((1, tokens * pictures), PICTURE), words], 1)
    pixels = torch.randn(pictures, *shape, generator=generator, dtype=torch.float64)
    labels = words.masked_fill(words == PICTURE, -100)
    pixels = {"pixel_values": pixels[None] if name in PADDED else pixels} if pictures else {}
    return {"input_ids": words, "attention_mask": torch.ones_like(words), "labels": labels, **pixels}


def together(name, examples):
    """The examples as one batch, padded on the right."""
    longest = max(one["input_ids"].shape[1] for one in examples)
    batch = {}
    for key, value in (("input_ids", 0), ("attention_mask", 0), ("labels", -100)):
        filled = [torch.nn.functional.pad(one[key], (0, longest - one[key].shape[1]), value=value) for one in examples]
        batch[key] = torch.cat(filled)
    pixels = [one["pixel_values"] for one in examples if "pixel_values" in one]
    if name in PADDED:
        most = max(one.shape[1] for one in pixels)
        pixels = [torch.cat([one, one.new_zeros(1, most - one.shape[1], *one.shape[2:])], 1) for one in pixels]
    return {"pixel_values": torch.cat(pixels), **batch}  # pictures first: examples are counted elsewhere


def assert_same(found, expected):
    assert found.heads == expected.heads and found.examples == expected.examples
    for name in NEED:
        for site, values in expected[name].items():
            torch.testing.assert_close(found[name][site], values, atol=1e-9, rtol=1e-9, equal_nan=True)


@pytest.mark.parametrize(
    ("name", "pictures"),
    [("llava", (1, 1, 1)), ("llava", (2, 2)), ("internvl", (2, 2)), ("idefics3", (2, 2)), ("idefics3", (3, 1))],
)
def test_rows_that_can_be_told_apart_give_what_the_examples_give_alone(generator, name, pictures):
    examples = [example(name, count, generator) for count in pictures]
    model = make(name, torch.float64).eval()
    assert_same(collect(model, [together(name, examples)], NEED), collect(model, examples, NEED))


@pytest.mark.parametrize(
    ("name", "pictures"),
    [
        ("llava", (2, 0)),
        ("llava", (2, 1)),
        ("internvl", (3, 0, 0)),
        ("internvl", (3, 2, 1)),
        ("idefics3", (3, 1, 0, 0)),
    ],
)
@pytest.mark.parametrize("need", [("his",), ("ae",), ("taylor",)])
def test_rows_that_cannot_be_told_apart_are_refused(generator, name, pictures, need):
    if name in PADDED:
        examples = [example(name, max(count, 1), generator) for count in pictures]
        batch = together(name, examples)
        for row, count in enumerate(pictures):
            if not count:  # as their processor pads: an example without a picture has zeros alone
                batch["pixel_values"][row] = 0
                batch["input_ids"][row].masked_fill_(batch["input_ids"][row] == PICTURE, 7)
    else:
        batch = together(name, [example(name, count, generator) for count in pictures])
    with pytest.raises(HiesError, match="give each example a batch of its own") as error:
        collect(make(name, torch.float64).eval(), [batch], need)
    assert "\n" not in str(error.value)


def test_pictures_beside_tokens_that_are_embedded_already_are_no_less_checked(generator):
    model = make("llava", torch.float64).eval()
    batch = together("llava", [example("llava", count, generator) for count in (3, 1)])
    batch["inputs_embeds"] = model.get_input_embeddings()(batch.pop("input_ids")).detach()
    with pytest.raises(HiesError, match="give each example a batch of its own"):
        collect(model, [batch])


def test_a_share_of_the_right_size_that_is_another_example_s_is_noticed(generator, monkeypatch):
    def swapped(batch):
        one, two = right(batch)
        return [{**one, "pixel_values": two["pixel_values"]}, {**two, "pixel_values": one["pixel_values"]}]

    right = rows.single_examples
    monkeypatch.setattr(rows, "single_examples", swapped)
    batch = together("llava", [example("llava", 1, generator) for _ in range(2)])
    with pytest.raises(HiesError, match="alone they compute something else"):
        collect(make("llava", torch.float64).eval(), [batch])


@pytest.mark.parametrize("pictures", [(1, 0, 0, 0), (0, 2, 0), (0, 0, 1)])
def test_an_example_without_a_picture_counts_in_the_mean(generator, pictures):
    model, name = make("llava", torch.float64).eval(), "llava"
    examples = [example(name, count, generator) for count in pictures]
    found, seeing = collect(model, examples, NEED), pictures.index(max(pictures))
    alone = collect(model, [examples[seeing]], NEED)
    vision = [site for site in found.heads if "vision" in site]
    assert vision and found.examples == len(pictures)
    for site in vision:
        assert found["his"][site].shape == found["ae"][site].shape == (len(pictures), alone.heads[site])
        torch.testing.assert_close(found.his[site], alone.his[site] / len(pictures))  # equation 1: 0 for the others
        torch.testing.assert_close(found["his_token"][site].sum(0), alone["his_token"][site][0])
        torch.testing.assert_close(found.ae[site], alone.ae[site])  # they have no entropy
        without = [place for place in range(len(pictures)) if place != seeing]
        assert found["ae"][site][without].isnan().all() and found["output_norm"][site][without].isnan().all()
        assert (found["his"][site][without] == 0).all()
    again = hies.Statistics.from_arrays(found.to_arrays())
    assert_same(again, found)
    assert sum(map(len, hies.select(hies.HIES(0.9)(found), 0.5).values())) == round(sum(found.heads.values()) / 2)


def test_vision_heads_may_stay_masked_where_no_picture_is(generator):
    model, text = make("llava", torch.float64).eval(), example("llava", 0, generator)
    site = next(site for site in hies.find_sites(model, example("llava", 1, generator)) if "vision" in site)
    expected = model(**text).logits
    with hies.masked(model, {site: [0]}):
        assert torch.equal(model(**text).logits, expected)


@pytest.mark.parametrize("name", ["bert", "llama", "t5"])
def test_examples_without_a_token_are_refused(name):
    batch = {key: value[:, :0] if value.dim() == 2 else value for key, value in make_batch(name).items()}
    for need in (("his",), ("ae",), ("taylor",)):
        with pytest.raises(HiesError, match="calibration batch"):
            collect(make(name), [batch], need)


@pytest.mark.parametrize("name", ["bert", "llama", "t5", "vit", "swin"])
def test_models_of_one_kind_of_input_pass_once(monkeypatch, name):
    monkeypatch.setattr(rows, "_Rows", None)
    assert collect(make(name), [make_batch(name)]).examples == 3


# --- examples packed into one row -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2"])
def test_examples_packed_into_one_row_do_not_see_each_other(generator, name):
    model, lengths = make(name, torch.float64).eval(), (5, 7)
    texts = [torch.randint(3, 48, (1, length), generator=generator) for length in lengths]
    positions = torch.cat([torch.arange(length) for length in lengths])[None]
    words = torch.cat(texts, 1)
    labels = words.clone()
    labels[0, lengths[0]] = -100  # the first token of the second text is not said after the first text
    packed = {"input_ids": words, "position_ids": positions, "labels": labels}
    apart = [{"input_ids": text, "labels": text} for text in texts]
    shares = torch.tensor([length - 1 for length in lengths], dtype=torch.float64) / (sum(lengths) - 2)
    found, alone = collect(model, [packed]), collect(model, apart)
    for site in found.heads:  # both losses are means over tokens, and a first token has no entropy
        torch.testing.assert_close(found["his"][site][0], (shares[:, None] * alone["his"][site]).sum(0), **CLOSE)
        torch.testing.assert_close(found["ae"][site][0], (shares[:, None] * alone["ae"][site]).sum(0), **CLOSE)
    assert model.config.use_cache  # again


def test_passes_of_methods_keep_packed_examples_apart_too():
    model, words = make("llama", torch.float64).eval(), torch.arange(3, 14)[None]
    packed = {"input_ids": words, "labels": words, "position_ids": torch.cat([torch.arange(4), torch.arange(7)])[None]}
    found, right = (collect(model, [{**packed, **more}], ("taylor", "greedy")) for more in ({}, {"use_cache": False}))
    for name in right:
        assert all(torch.equal(found[name][site], values) for site, values in right[name].items())


class Pairs(nn.Module):
    """Classifies pairs of texts, which one BERT reads as rows of one batch."""

    def __init__(self, joined):
        super().__init__()
        self.bert, self.classifier, self.joined = make("bert").bert.double(), nn.Linear(105, 3).double(), joined

    def forward(self, input_ids, others, attention_mask):
        ids, masks = (input_ids, others), (attention_mask, torch.ones_like(others))
        if self.joined == "cat":  # all first texts, then all others
            first, second = self.bert(torch.cat(ids), torch.cat(masks)).pooler_output.chunk(2)
        else:
            ids, masks = (torch.stack(one, 1).flatten(0, 1) for one in (ids, masks))
            first, second = self.bert(ids, masks).pooler_output.unflatten(0, (-1, 2)).unbind(1)
        return {"logits": self.classifier(torch.cat([first, second, first - second], 1))}


@pytest.mark.parametrize("joined", ["cat", "stack"])
def test_rows_of_a_model_of_ones_own_that_lie_elsewhere_are_refused(generator, joined):
    torch.manual_seed(0)
    model = Pairs(joined).eval()
    texts = torch.randint(3, 48, (2, 5, 7), generator=generator)
    mask = torch.ones_like(texts[0])
    mask[1, 4:] = 0
    together = {"input_ids": texts[0], "others": texts[1], "attention_mask": mask, "labels": torch.arange(5) % 3}
    alone = [{name: values[i : i + 1] for name, values in together.items()} for i in range(5)]
    expected = collect(model, alone, NEED)
    if joined == "cat":
        with pytest.raises(HiesError, match=r"lays its rows elsewhere \(torch.cat .* each example a batch of its own"):
            collect(model, [together], NEED)
    else:
        assert_same(collect(model, [together], NEED), expected)
