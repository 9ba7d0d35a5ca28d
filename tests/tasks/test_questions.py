"""Questions about digits: right labels, prompts that survive the disk, answers as a plain loop generates them."""

import io
import json

import numpy as np
import pytest
import torch
import transformers as tf
from PIL import Image
from visual_copy import LLAVA, random_llava

import hies
from experiments import run
from experiments.sweep import job as job_module
from hies.batching import Encoded
from hies.errors import HiesError
from hies.scoring.own_loss import example_losses
from hies.tasks import Split
from hies.tasks.embedded.digits import DIGITS, QUESTIONS, DigitQuestions, vocabulary

WHICH, EVEN, LARGER = QUESTIONS
RIGHT = {WHICH: lambda digit: DIGITS[digit], EVEN: lambda digit: ("yes", "no")[digit % 2],
         LARGER: lambda digit: "yes" if digit >= 5 else "no"}  # fmt: skip


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    return DigitQuestions().load(None, tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def pair():
    return random_llava()


@pytest.fixture(scope="module")
def some(splits):
    """Examples of every question, of different length."""
    return splits.report.take([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10])


def pixels_of(file):
    return np.asarray(Image.open(io.BytesIO(file)).convert("L"))


def test_every_answer_is_right_and_no_image_is_in_two_splits(splits):
    from sklearn.datasets import load_digits

    data = load_digits()
    digit_of = {image.tobytes(): int(y) for image, y in zip(data.images.astype(np.int64), data.target, strict=True)}
    seen = []
    for split, rounds in ((splits.train, 3), (splits.selection, 1), (splits.report, 3)):
        originals = [
            np.rint(pixels_of(file).astype(float) * 16 / 255).astype(np.int64).tobytes()
            for file in split.inputs["image"]
        ]
        asked = zip(originals, split.inputs["question"], strict=True)
        assert len(set(asked)) == len(split) == rounds * len(set(originals))
        for original, text, label in zip(originals, split.inputs["question"], split.labels, strict=True):
            assert label == RIGHT[text](digit_of[original])
        seen.append(set(originals))
    assert [len(part) for part in seen] == [1000, 297, 500] and len(set.union(*seen)) == 1797


def test_chance_is_what_the_task_says_and_its_first_examples_ask_of_everything(splits):
    texts, labels = np.array(splits.report.inputs["question"]), splits.report.labels

    def shares(first):
        counts = [np.unique(labels[:first][texts[:first] == text], return_counts=True)[1] for text in QUESTIONS]
        return [count.max() / count.sum() for count in counts], sum(count.max() for count in counts) / first

    of_kinds, overall = shares(1500)
    assert of_kinds == pytest.approx([0.102, 0.504, 0.504]) and overall == pytest.approx(0.370)
    assert shares(500)[1] == pytest.approx(0.382)
    assert set(np.unique(texts[:500], return_counts=True)[1]) == {166, 167}


def test_the_seed_is_that_of_the_digits_and_the_identity_follows_it(splits, tmp_path):
    other = DigitQuestions(data_seed=1)
    assert other.load(None, tmp_path).digest() != splits.digest() == DigitQuestions().load(None, tmp_path).digest()
    assert DigitQuestions().identity(None) == DigitQuestions(max_examples=3).identity(None) != other.identity(None)
    with pytest.raises(HiesError, match=r"data_seed is -1"):
        DigitQuestions(data_seed=-1)


def test_a_prompt_has_the_image_the_question_and_the_place_of_the_answer(pair, some):
    _, processor = pair
    encoded = DigitQuestions().encode(some, processor, 64)
    for i in range(len(some)):
        feature = encoded.features[i]
        said = feature["labels"] != -100
        words = processor.tokenizer.decode(feature["input_ids"]).split()
        text = some.inputs["question"][i].lower().replace("?", " ?").split()
        assert words == ["<s>", "user", ":", *["<image>"] * 4, *text, "assistant", ":", some.labels[i], "</s>"]
        assert said.tolist() == [False] * (len(words) - 2) + [True, True]
        assert torch.equal(feature["labels"][said], feature["input_ids"][said])
        image = torch.tensor(pixels_of(some.inputs["image"][i])).float() / 127.5 - 1
        torch.testing.assert_close(feature["pixel_values"], image.expand(3, 8, 8))


def test_examples_prepared_one_by_one_are_those_prepared_at_once(pair, some, monkeypatch):
    _, processor = pair
    task = DigitQuestions()
    at_once = task.encode(some, processor, 64)
    monkeypatch.setattr(DigitQuestions, "small", False)
    alone = task.encode(some, processor, 64)
    assert isinstance(at_once, Encoded) and len(alone) == len(at_once) == 11
    for i in range(11):
        for name, tensor in at_once.features[i].items():
            assert torch.equal(tensor, alone.features[i][name])


def test_a_saved_processor_prepares_the_same_inputs(pair, some, tmp_path):
    _, processor = pair
    processor.save_pretrained(tmp_path)
    loaded = tf.AutoProcessor.from_pretrained(tmp_path)
    one, two = (DigitQuestions().encode(some, p, 64).batch([2, 0, 1]) for p in (processor, loaded))
    assert one.keys() == two.keys() == {"input_ids", "attention_mask", "pixel_values", "labels"}
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_the_loss_is_that_of_the_answer_and_its_end(pair, some):
    model, processor = pair
    batch = DigitQuestions().encode(some, processor, 64).batch(range(11))
    assert (batch["input_ids"][batch["attention_mask"] == 0] == processor.tokenizer.pad_token_id).all()
    assert (batch["labels"][batch["attention_mask"] == 0] == -100).all() and (batch["attention_mask"] == 0).any()
    expected = []
    for i in range(11):
        feature = {
            name: tensor[None] for name, tensor in DigitQuestions().encode(some, processor, 64).features[i].items()
        }
        words = feature.pop("input_ids"), feature.pop("labels")
        with torch.no_grad():
            logits = model(input_ids=words[0], pixel_values=feature["pixel_values"]).logits[0].log_softmax(-1)
        expected.append(-(logits[-3, words[0][0, -2]] + logits[-2, words[0][0, -1]]).item() / 2)
    np.testing.assert_allclose(example_losses(model, [batch]), expected, rtol=1e-5)


def generated(model, processor, examples, steps):
    """Greedy answers one example at a time, every word from a whole forward pass without a cache."""
    found = []
    for i in range(len(examples)):
        (feature,) = DigitQuestions().encode(examples.take([i]), processor, 64).features
        tokens, said = feature["input_ids"][:-2][None], []
        for _ in range(steps):
            with torch.no_grad():
                word = model(input_ids=tokens, pixel_values=feature["pixel_values"][None]).logits[0, -1].argmax()
            if word == processor.tokenizer.eos_token_id:
                break
            said.append(int(word))
            tokens = torch.cat([tokens, word[None, None]], dim=1)
        found.append(processor.tokenizer.decode(said, skip_special_tokens=True).strip())
    return found


def test_answers_are_what_a_loop_without_a_cache_writes_whatever_the_batch(pair, splits, monkeypatch):
    model, processor = pair
    monkeypatch.setattr(DigitQuestions, "max_new_tokens", 4)
    examples = splits.report.take(range(0, 60, 2))
    expected = generated(model, processor, examples, 4)
    for size in (1, 7, 30):
        found = DigitQuestions().answers(model, processor, examples, size, "float32")
        assert found["predictions"].tolist() == expected
    assert len(set(expected)) > 5
    nothing = Split({"image": [], "question": []}, np.array([], dtype=str))
    assert DigitQuestions().answers(model, processor, nothing, 7, "float32")["predictions"].shape == (0,)


def test_masked_and_pruned_models_answer_alike_and_not_as_the_whole_one(pair, splits):
    model, processor = pair
    examples, task = splits.report.take(range(40)), DigitQuestions()
    removed = {f"model.language_model.layers.{i}.self_attn": heads for i, heads in enumerate(([0, 2], [1]))}
    whole = task.answers(model, processor, examples, 9, "float32")["predictions"]
    with hies.masked(model, removed):
        masked = task.answers(model, processor, examples, 9, "float32")["predictions"]
    small = task.answers(hies.prune(model, removed), processor, examples, 9, "float32")["predictions"]
    assert (masked == small).all() and (masked != whole).any()
    assert (task.answers(model, processor, examples, 9, "float32")["predictions"] == whole).all()


def test_what_cannot_be_is_one_sentence(pair, some):
    _, processor = pair
    task = DigitQuestions()
    with pytest.raises(HiesError, match=r"max_length is 9; .* takes 1\d tokens .* 4 of them for the image"):
        task.encode(some, processor, 9)
    with pytest.raises(HiesError, match=r"vocab_size is 7; task=digit_questions has 28 words"):
        task.make_processor(some, {**LLAVA, "text_config": {"vocab_size": 7}}, 64)
    with pytest.raises(HiesError, match=r"model_type is 'llama'.*trains llava"):
        task.make_processor(some, {"model_type": "llama"}, 64)
    broken = Split({"image": [some.inputs["image"][0][:40]], "question": [WHICH]}, some.labels[:1])
    with pytest.raises(HiesError, match=r"image of the question 'Which digit is this\?' cannot be read"):
        task.encode(broken, processor, 64)
    assert len(vocabulary()) == len(set(vocabulary())) == 28


SMALL = [
    "model=llava_tiny", "task=digit_questions", "task.max_examples=90", "model.finetune.epochs=1",
    "model.finetune.learning_rate=5e-3", "model.finetune.batch_size=32",
    "model.architecture.text_config.num_hidden_layers=2",
    "model.architecture.vision_config.num_hidden_layers=1", "calibration.size=8", "wandb.mode=disabled",
]  # fmt: skip


def test_the_loop_trains_scores_and_prunes_the_heads_that_are_chosen(tmp_path, monkeypatch, capsys):
    def rows(name, *words):
        arguments = [*SMALL, f"results_dir={tmp_path}/{name}", f"cache_dir={tmp_path}/cache", *words]
        monkeypatch.setattr("sys.argv", ["run", *arguments])
        job_module._evaluators.clear()  # which are not told apart by model.sites
        assert run.main() == 0, capsys.readouterr().err
        return [json.loads(line) for path in (tmp_path / name).rglob("*.jsonl") for line in path.open()]

    language = rows("language", "criterion=hies", "sparsity.ratios=[0.25,1]")
    assert [row["heads_removed"] for row in language] == [0, 4, 16] and language[0]["sites"] == "language_model"
    assert all("language_model" in site for row in language for site in row["mask"])
    assert language[0]["quality"] > 20 and language[0]["stability"] == 100 > language[2]["stability"]
    (path,) = (tmp_path / "language").rglob("*.npz")
    arrays = np.load(path, allow_pickle=False)
    assert arrays["predictions"].dtype.kind == arrays["labels"].dtype.kind == "U"
    quality = 100 * (arrays["predictions"] == arrays["labels"]).mean(axis=1)
    np.testing.assert_allclose([row["quality"] for row in language], quality)
    vision = rows("vision", "criterion=l2", "model.sites=vision", "sparsity.ratios=[0.5]", "sparsity.mode=remove")
    assert [row["heads_total"] for row in vision] == [4, 4] and vision[1]["heads_removed"] == 2
    assert all("vision_tower" in site for site in vision[1]["mask"])
    assert vision[0]["checkpoint"] == language[0]["checkpoint"] and vision[0]["flops"] > vision[1]["flops"]
