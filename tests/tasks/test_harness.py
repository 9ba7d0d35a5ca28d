"""The language tasks against lm-eval run by itself: the same checkpoint, the same documents, the same numbers."""

import json
import logging
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers as tf
from language_copy import SIZES, SUBJECTS, WORDS, copy_of, made_up, mmlu_tables, write
from lm_eval_runs import evaluate_by_lm_eval
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from hies import masked, prune
from hies.errors import HiesError
from hies.evaluation import metrics
from hies.tasks import TASKS, hub, language, lm_eval_definitions
from hies.tasks import lm_eval as harness
from hies.tasks.base import TOKENS

lm_eval = pytest.importorskip("lm_eval")
prefix_model = pytest.importorskip("hies.tasks.prefix_model")

DEFINITIONS = Path(lm_eval.__file__).parent / "tasks"
REAL = os.environ.get("HIES_DATA")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A folder with a random LLaMA and a byte-level tokenizer, whose words are answers as GSM8K gives them, too."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([" ".join(WORDS)] * 3, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    wrapped = tf.PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    wrapped.add_tokens([f" #### {number}" for number in range(150)])
    torch.manual_seed(5)
    config = tf.LlamaConfig(
        vocab_size=len(wrapped), hidden_size=24, intermediate_size=20, num_hidden_layers=2, num_attention_heads=6,
        num_key_value_heads=3, head_dim=4, max_position_embeddings=1024, initializer_range=0.6, bos_token_id=0,
        eos_token_id=1,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("checkpoint")
    tf.LlamaForCausalLM(config).save_pretrained(folder)
    wrapped.save_pretrained(folder)
    return folder


@pytest.fixture
def network(checkpoint):
    return tf.AutoModelForCausalLM.from_pretrained(checkpoint).eval()


@pytest.fixture
def tokenizer(checkpoint):
    return tf.AutoTokenizer.from_pretrained(checkpoint)


@pytest.fixture(autouse=True)
def nothing_remembered(monkeypatch, tmp_path):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "hf")
    for function in (hub.frames, language._content):
        function.cache_clear()


def theirs(folder, checkpoint, name, specs, **options):
    """lm-eval run directly on a checkpoint; `specs` say what its own definitions are changed in."""
    folder.mkdir()
    for number, spec in enumerate(specs):
        (folder / f"{number}.yaml").write_text(json.dumps(spec))
    settings = {"model_args": {"pretrained": str(checkpoint)}, "batch_size": 4, "device": "cpu", **options}
    return evaluate_by_lm_eval("hf", [name], folder, **settings)


def specification(path, root, **changed):
    return {"include": str(DEFINITIONS / path), "dataset_path": str(root), **changed}


def of_task(task, root, **changed):
    return specification(task.definition, root / task.repository, dataset_name=task.config, **changed)


def compare(ours, labels, found, name):
    """Every document's verdict, and the numbers of the run to the last digit; gives the number of documents."""
    samples = sorted(found["samples"][name], key=lambda sample: sample["doc_id"])
    for rule, measure in {"predictions": "acc", "norm": "acc_norm"}.items():
        assert (rule in ours) == (f"{measure},none" in found["results"][name])
        if rule in ours:
            assert (ours[rule] == labels).tolist() == [sample[measure] == 1 for sample in samples]
            assert metrics.quality("accuracy", labels, ours[rule])[0] == found["results"][name][f"{measure},none"]
    return len(samples)


@pytest.mark.parametrize(
    "name, shots",
    [("hellaswag", None), ("hellaswag", 2), ("winogrande", None), ("winogrande", 2), ("arc_easy", None),
     ("arc_challenge", 3), ("openbookqa", None), ("piqa", None)],
)  # fmt: skip
def test_a_choice_is_the_one_that_lm_eval_counts(name, shots, network, tokenizer, checkpoint, tmp_path):
    task, root = TASKS[name](shots=shots), copy_of(tmp_path / "data", name)
    report = task.load(root, tmp_path).report
    before = TOKENS.copy()
    ours = task.answers(network, tokenizer, report, 4, "float32")
    read = TOKENS - before
    assert all(prefix_model._proven[network].values()) and 0 < read["computed"] < 1.5 * read["plain"]
    found = theirs(tmp_path / "t", checkpoint, name, [of_task(task, root)], num_fewshot=shots)
    assert compare(ours, report.labels, found, name) == SIZES[task.reported]
    assert len(set(ours["predictions"].tolist())) > 1 and 0 < np.mean(ours["predictions"] == report.labels) < 1


def test_weights_in_bfloat16_give_lm_evals_numbers(checkpoint, tokenizer, tmp_path):
    task, root = TASKS["openbookqa"](), copy_of(tmp_path / "data", "openbookqa")
    network = tf.AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.bfloat16)
    report = task.load(root, tmp_path).report
    ours = task.answers(network, tokenizer, report, 4, "float32")
    given = {"pretrained": str(checkpoint), "dtype": "bfloat16"}
    found = theirs(tmp_path / "t", checkpoint, task.name, [of_task(task, root)], model_args=given)
    assert compare(ours, report.labels, found, task.name) == SIZES["test"]


def test_without_a_training_split_the_other_documents_give_lm_evals_numbers(network, tokenizer, checkpoint, tmp_path):
    task, root = TASKS["hellaswag"](max_examples=9), copy_of(tmp_path / "data", "hellaswag", without=["train"])
    splits = task.load(root, tmp_path)
    assert task.notes(root) == {"calibration_source": "validation[:13]"}
    ours = task.answers(network, tokenizer, splits.report, 4, "float32")
    spec, asked = of_task(task, root, training_split=None), {task.name: [*range(13, 22)]}
    found = theirs(tmp_path / "t", checkpoint, task.name, [spec], samples=asked)
    assert compare(ours, splits.report.labels, found, task.name) == 9


@pytest.mark.parametrize("shots", [5, None])
def test_mmlu_is_lm_evals_group_weighed_by_size(shots, network, tokenizer, checkpoint, tmp_path):
    task, root = TASKS["mmlu"](shots=shots), copy_of(tmp_path / "data", "mmlu")
    report = task.load(root, tmp_path).report
    ours = task.answers(network, tokenizer, report, 4, "float32")["predictions"]
    apart = {s: {split: rows[rows.subject == s] for split, rows in mmlu_tables().items()} for s in SUBJECTS}
    apart = write(tmp_path / "apart", task.repository, apart) / task.repository
    specs = [specification(f"{task.definition}/mmlu_{subject}.yaml", apart) for subject in SUBJECTS]
    members = [f"mmlu_{subject}" for subject in SUBJECTS]
    group = {"group": "mmlu", "task": members, "aggregate_metric_list": [{"metric": "acc", "weight_by_size": True}]}
    found = theirs(tmp_path / "t", checkpoint, "mmlu", [group, *specs], num_fewshot=shots)
    right = dict(zip((contexts[0] for contexts in report.inputs["contexts"]), ours == report.labels, strict=True))
    samples = [sample for member in members for sample in found["samples"][member]]
    assert len(samples) == len(report) == len(right) == 19
    assert [right[sample["arguments"][0][0]] for sample in samples] == [sample["acc"] == 1 for sample in samples]
    assert metrics.quality("accuracy", report.labels, ours)[0] == pytest.approx(found["groups"]["mmlu"]["acc,none"])
    assert 0 < np.mean(ours == report.labels) < 1


def test_gsm8k_texts_filters_and_numbers_are_lm_evals(network, tokenizer, checkpoint, tmp_path):
    task, tables = TASKS["gsm8k"](new_tokens=12), made_up("gsm8k", ["train", "test"])
    first = write(tmp_path / "first", task.repository, {task.config: tables})
    said = task.answers(network, tokenizer, task.load(first, tmp_path).report, 4, "float32")
    for place in range(0, len(tables["test"]), 2):  # some right answers are what the model says, by either filter
        rule = "predictions" if place % 4 else "strict"
        tables["test"].loc[place, "answer"] = f"So it is.\n#### {said[rule][place]}"
    root = write(tmp_path / "data", task.repository, {task.config: tables})
    report = task.load(root, tmp_path).report
    ours = task.answers(network, tokenizer, report, 4, "float32")
    assert {name: answers.tolist() for name, answers in ours.items()} == {k: v.tolist() for k, v in said.items()}
    changed = of_task(task, root, generation_kwargs={"until": ["Question:"], "do_sample": False, "max_gen_toks": 12})
    found = theirs(tmp_path / "t", checkpoint, task.name, [changed])
    for rule, name in {"predictions": "flexible-extract", "strict": "strict-match"}.items():
        samples = [sample for sample in found["samples"][task.name] if sample["filter"] == name]
        samples.sort(key=lambda sample: sample["doc_id"])
        assert (ours[rule] == report.labels).tolist() == [sample["exact_match"] == 1 for sample in samples]
        assert metrics.quality("exact_match", report.labels, ours[rule])[0] == pytest.approx(
            found["results"][task.name][f"exact_match,{name}"], abs=1e-12
        )
        assert 0.1 < np.mean(ours[rule] == report.labels) < 1
    assert (ours["predictions"] != ours["strict"]).any() and (ours["strict"] != "[invalid]").any()


@pytest.mark.skipif(REAL is None, reason="needs the environment's HIES_DATA")
@pytest.mark.parametrize("name", ["winogrande", "arc_easy", "piqa", "hellaswag"])
def test_real_documents_give_lm_evals_numbers(name, network, tokenizer, checkpoint, tmp_path):
    task, root = TASKS[name](max_examples=24), Path(REAL)
    if not (root / task.repository).is_dir():
        pytest.skip(f"{REAL} has no {task.repository}")
    report = task.load(root, tmp_path).report
    ours = task.answers(network, tokenizer, report, 4, "float32")
    source, changed, start = task.notes(root)["calibration_source"], {}, 0
    if source != "train":
        changed, start = {"training_split": None}, int(source.strip("]").split(":")[1])
    asked = {name: [*range(start, start + 24)]}
    found = theirs(tmp_path / "t", checkpoint, name, [of_task(task, root, **changed)], samples=asked)
    assert compare(ours, report.labels, found, name) == 24


def likeliest(network, tokenizer, columns):
    """The choices, one sequence after the other: (by the sum of log-probabilities, by their sum a character, sums)."""
    chosen, by_size, sums = [], [], []
    for contexts, continuations, sizes in zip(
        *(columns[k] for k in ("contexts", "continuations", "sizes")), strict=True
    ):
        scores = []
        for place, text in enumerate(continuations):
            context = contexts[place % len(contexts)]
            tokens = torch.tensor([tokenizer(context + text)["input_ids"]])
            begin = len(tokenizer(context)["input_ids"])
            with torch.no_grad():
                logs = network(tokens).logits.log_softmax(-1)[0, begin - 1 : -1]
            scores.append(logs.gather(1, tokens[0, begin:, None]).sum().item())
        chosen.append(int(np.argmax(scores)))
        by_size.append(int(np.argmax(np.divide(scores, sizes))))
        sums.append(scores)
    return chosen, by_size, sums


def written(network, tokenizer, context, count):
    """Greedy generation without a key/value cache."""
    tokens = tokenizer(context)["input_ids"]
    begin = len(tokens)
    for _ in range(count):
        with torch.no_grad():
            tokens.append(int(network(torch.tensor([tokens])).logits[0, -1].argmax()))
        if tokens[-1] == tokenizer.eos_token_id:
            break
    return tokenizer.decode(tokens[begin:], skip_special_tokens=True)


REMOVED = {"model.layers.0.self_attn": [0, 4], "model.layers.1.self_attn": [1, 2, 3]}


def test_choices_of_a_masked_and_of_a_pruned_model(network, tokenizer, tmp_path):
    report = TASKS["hellaswag"]().load(copy_of(tmp_path, "hellaswag"), tmp_path).report
    dense = harness.choose(network, tokenizer, report.inputs, 5)
    with masked(network, REMOVED):
        ours = harness.choose(network, tokenizer, report.inputs, 5)
        *expected, sums = likeliest(network, tokenizer, report.inputs)
        losses = TASKS["hellaswag"]().answers(network, tokenizer, report, 5, "float32")
    pruned = harness.choose(prune(network, REMOVED), tokenizer, report.inputs, 3)
    assert [ours["predictions"].tolist(), ours["norm"].tolist()] == expected
    assert {*losses} == {*ours, "losses", "token_losses"}
    right, shares = report.labels, [np.exp(np.array(each) - max(each)) for each in sums]
    texts = [options[place] for options, place in zip(report.inputs["continuations"], right, strict=True)]
    each = [-likelihoods[place] for likelihoods, place in zip(sums, right, strict=True)]
    tokens = [len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts]
    by_option = [-np.log(share[place] / share.sum()) for share, place in zip(shares, right, strict=True)]
    np.testing.assert_allclose(losses["losses"], by_option, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(losses["token_losses"], np.divide(each, tokens), rtol=1e-4)
    assert {name: answers.tolist() for name, answers in pruned.items()} == {k: v.tolist() for k, v in ours.items()}
    assert (ours["predictions"] != dense["predictions"]).any() and (ours["predictions"] != ours["norm"]).any()


def test_texts_of_a_masked_and_of_a_pruned_model(network, tokenizer):
    contexts = ["sun moon", "Question: river stone bird tree?\nAnswer:", "salt"]
    settings = {"until": ["\n\n"], "do_sample": False, "temperature": 0.0, "max_gen_toks": 10}
    dense = harness.generate(network, tokenizer, contexts, settings, 2)
    with masked(network, REMOVED):
        ours = harness.generate(network, tokenizer, contexts, settings, 2)
        expected = [written(network, tokenizer, context, 10) for context in contexts]
    assert ours == expected != dense
    assert harness.generate(prune(network, REMOVED), tokenizer, contexts, settings, 3) == ours


def test_bfloat16_precision_reaches_the_matrix_products(network, tokenizer):
    seen = {}
    hook = network.lm_head.register_forward_hook(lambda module, inputs, output: found.add(output.dtype))
    columns = {"contexts": [["sun"]], "continuations": [[" moon", " river stone"]]}
    for precision in ("float32", "bfloat16"):
        found = seen[precision] = set()
        harness.choose(network, tokenizer, columns, 1, precision)
        harness.generate(network, tokenizer, ["sun"], {"until": [], "max_gen_toks": 2}, 1, precision)
    hook.remove()
    assert seen == {"float32": {torch.float32}, "bfloat16": {torch.bfloat16}}


def test_nothing_is_left_changed(network, tokenizer, tmp_path, capfd):
    from lm_eval.utils import env

    task = TASKS["gsm8k"](new_tokens=2, max_examples=3)
    logging.getLogger("lm_eval").setLevel(logging.INFO)
    network.train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    report = task.load(copy_of(tmp_path, "gsm8k"), tmp_path).report
    capfd.readouterr()
    task.answers(network, tokenizer, report, 2, "float32")
    out, err = capfd.readouterr()
    assert out == "" and "it/s" not in err
    assert network.training and tokenizer.pad_token is None and tokenizer.padding_side == "right"
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert logging.getLogger("lm_eval").level == logging.INFO and "from_string" not in vars(env)


def numbers(split):
    """What marks a document: the first number in it."""
    return [int(next(word for word in text.split() if word.isdigit())) for (text, *_) in split.inputs["contexts"]]


@pytest.mark.parametrize("name, sizes", [("winogrande", (30, 10, 26)), ("piqa", (30, 10, 26)), ("gsm8k", (30, 10, 23))])
def test_the_splits_share_no_document_and_lose_none(name, sizes, tmp_path):
    task, root = TASKS[name](shots=0), copy_of(tmp_path, name)
    splits = task.load(root, tmp_path)
    train, selection, report = (numbers(part) for part in (splits.train, splits.selection, splits.report))
    assert (len(train), len(selection), len(report)) == sizes and task.notes(root) == {"calibration_source": "train"}
    assert sorted(train + selection) == [*range(40)] and report == [*range(sizes[2])]
    assert selection[0] == 0 and selection[-1] == 39 and max(np.diff(selection)) <= 5


def test_a_missing_training_split_is_made_from_the_first_reported_documents(tmp_path):
    splits = TASKS["piqa"]().load(copy_of(tmp_path, "piqa", without=["train"]), tmp_path)
    assert sorted(numbers(splits.train) + numbers(splits.selection)) == [*range(13)] and len(splits.selection) == 3
    assert numbers(splits.report) == [*range(13, 26)]


def test_the_numbers_of_documents_are_bounded(tmp_path, monkeypatch):
    for name, size in {"CALIBRATION": 7, "SELECTION": 4, "HELD_OUT": 9}.items():
        monkeypatch.setattr(language, name, size)
    splits = TASKS["piqa"]().load(copy_of(tmp_path / "a", "piqa"), tmp_path)
    assert (len(splits.train), len(splits.selection)) == (7, 4)
    hub.frames.cache_clear()
    splits = TASKS["piqa"]().load(copy_of(tmp_path / "b", "piqa", without=["train"]), tmp_path)
    assert (len(splits.train), len(splits.selection), numbers(splits.report)[0]) == (7, 2, 9)


def test_a_selected_document_is_no_example_in_a_prompt_and_max_examples_changes_no_prompt(tmp_path):
    root = copy_of(tmp_path, "gsm8k")
    whole, cut = TASKS["gsm8k"]().load(root, tmp_path), TASKS["gsm8k"](max_examples=4).load(root, tmp_path)
    questions = hub.frames("openai/gsm8k", "main", root)["train"]["question"]
    selected = {
        questions[i]
        for i in range(40)
        if any(
            questions[i] + "\nAnswer:" == text.rsplit("Question: ")[-1]
            for (text,) in whole.selection.inputs["contexts"]
        )
    }
    assert len(selected) == 10
    for (text,) in whole.selection.inputs["contexts"]:
        assert text.count("Question: ") == 6 and sum(question in text for question in selected) == 1
    assert cut.report.inputs["contexts"] == whole.report.inputs["contexts"][:4]
    assert all(text.count("Question: ") == 1 for (text,) in whole.train.inputs["contexts"])


def test_mmlu_takes_subjects_in_turn_and_calibrates_on_dev(tmp_path):
    task, root = TASKS["mmlu"](), copy_of(tmp_path, "mmlu")
    splits = task.load(root, tmp_path)
    assert task.notes(root) == {"calibration_source": "dev"}
    assert [len(part) for part in (splits.train, splits.selection, splits.report)] == [15, 7, 19]
    subject = [text.split("about ")[1].split(".")[0] for (text,) in splits.report.inputs["contexts"]]
    assert subject[:12] == [*SUBJECTS] * 3 + ["astronomy", "virology"] + ["astronomy"]
    tables = mmlu_tables()
    asked = tables["test"][tables["test"].subject == "virology"]
    place = [i for i, name in enumerate(subject) if name == "virology"]
    assert splits.report.labels[place].tolist() == asked["answer"].tolist()
    for i, question in zip(place, asked["question"], strict=True):
        prompt = splits.report.inputs["contexts"][i][0]
        assert f"{question.strip()}\nA. " in prompt and prompt.count("\nAnswer:") == 6


def test_a_calibration_text_is_the_prompt_and_its_right_answer(tokenizer, tmp_path):
    kind, tables = TASKS["arc_easy"], made_up("arc_easy", ["train", "test"])
    root = write(tmp_path, kind.repository, {kind.config: tables})
    train = kind().load(root, tmp_path).train
    encoded = kind().encode(train, tokenizer, 512)
    expected = {}
    for i, row in enumerate(tables["train"].to_dict("records")):
        answer = row["choices"]["text"][row["choices"]["label"].index(row["answerKey"])]
        expected[i] = f"Question: {row['question']}\nAnswer: {answer}"
    texts = [expected[number] for number in numbers(train)]
    assert [tokenizer.decode(row["input_ids"][1:]) for row in encoded.features] == texts
    batch = encoded.batch([0, 1, 2])
    for i in range(3):
        length = int(batch["attention_mask"][i].sum())
        assert batch["labels"][i, :length].tolist() == batch["input_ids"][i, :length].tolist() and length > 20
        assert set(batch["labels"][i, length:].tolist()) <= {-100}
    short = kind().encode(train, tokenizer, 9)
    assert [row["labels"].tolist() for row in short.features] == [
        row["labels"][-9:].tolist() for row in encoded.features
    ]


def test_calibration_texts_of_contexts_that_hold_the_option_and_of_generated_answers(tokenizer, tmp_path):
    draws = {
        "winogrande": lambda row: row["sentence"].replace("_", row[f"option{row['answer']}"]),
        "gsm8k": lambda row: f"Question: {row['question']}\nAnswer: {row['answer']}",
    }
    for name, draw in draws.items():
        train = TASKS[name]().load(copy_of(tmp_path, name), tmp_path).train
        rows = made_up(name, ["train"])["train"].to_dict("records")
        found = [tokenizer.decode(row["input_ids"][1:]) for row in TASKS[name]().encode(train, tokenizer, 512).features]
        assert found == [draw(rows[number]) for number in numbers(train)]


@pytest.mark.parametrize(
    "text, strict, flexible",
    [
        ("She has 3 left.\n#### 1,234", "1234", "1234"),
        ("#### -7.5 apples", "-7.5", "-7.5"),
        ("It costs $18.", "[invalid]", "18"),
        ("3 and 4 are 7", "[invalid]", "7"),
        ("#### 3\nQuestion 2: #### 5", "3", "5"),
        ("####5", "[invalid]", "5"),
        ("no number", "[invalid]", "[invalid]"),
        ("", "[invalid]", "[invalid]"),
        ("#### 18.", "18", "18"),
        ("#### $18", "[invalid]", "18"),
        ("...", "[invalid]", ".."),
    ],
)
def test_an_answer_is_cut_out_of_a_text(text, strict, flexible):
    path = TASKS["gsm8k"].definition
    found = {
        name: [harness.normalized_text(path, one) for one in texts]
        for name, texts in harness.extracted(path, [text]).items()
    }
    assert found == {"strict-match": [strict], "flexible-extract": [flexible]}


def test_degenerate_questions_to_the_harness(network, tokenizer):
    path = TASKS["gsm8k"].definition
    assert harness.extracted(path, []) == {"strict-match": [], "flexible-extract": []}
    assert harness.normalized_text(path, "Because.\n#### 2,000") == harness.normalized_text(path, "2000.") == "2000"
    assert harness.choose(network, tokenizer, {"contexts": [], "continuations": []}, 2)["predictions"].tolist() == []
    assert harness.generate(network, tokenizer, [], {"until": []}, 2) == []


def test_exact_match_by_hand():
    labels, said = np.array(["18", "2000", "[invalid]"]), np.array(["18", "200", "[invalid]"])
    value, quality = metrics.quality("exact_match", labels, said)
    assert (value, quality) == (pytest.approx(2 / 3), pytest.approx(200 / 3))
    assert metrics.stability(said, labels) == pytest.approx(200 / 3)


def test_the_identity_follows_documents_and_knobs_and_not_the_place(tmp_path, monkeypatch):
    for name in ("arc_easy", "mmlu"):
        here = TASKS[name]().identity(copy_of(tmp_path / "a", name))
        assert TASKS[name]().identity(copy_of(tmp_path / "b", name)) == here
        assert TASKS[name](shots=1).identity(tmp_path / "a") != here
        assert TASKS[name](max_examples=3).identity(tmp_path / "a") == here
    here = TASKS["arc_easy"]().identity(tmp_path / "a")
    assert TASKS["arc_easy"]().identity(copy_of(tmp_path / "c", "arc_easy", mark=1)) != here
    monkeypatch.setattr(harness, "version", lambda: "0.0.1")
    assert TASKS["arc_easy"]().identity(tmp_path / "a") != here
    root = copy_of(tmp_path, "gsm8k")
    assert TASKS["gsm8k"]().identity(root) != TASKS["gsm8k"](new_tokens=9).identity(root)


@pytest.mark.parametrize("knobs, words", [({"shots": -1}, "shots is -1"), ({"new_tokens": 0}, "new_tokens is 0")])
def test_a_knob_that_cannot_be_is_named(knobs, words):
    with pytest.raises(HiesError, match=words):
        TASKS["gsm8k"](**knobs)


def test_what_is_missing_is_said_in_a_sentence(network, tokenizer, checkpoint, tmp_path, monkeypatch):
    with pytest.raises(HiesError, match=r"shots is 30; winogrande has 30 documents"):
        TASKS["winogrande"](shots=30).load(copy_of(tmp_path, "winogrande"), tmp_path)
    with pytest.raises(HiesError, match="no split 'test', which task=gsm8k"):
        TASKS["gsm8k"]().load(copy_of(tmp_path, "gsm8k", without=["test"]), tmp_path)
    with pytest.raises(HiesError, match=r"copy in ybisk/piqa/, or connect .* baber/piqa"):
        TASKS["piqa"]().identity(tmp_path)
    tables = {split: rows.replace("virology", "alchemy") for split, rows in mmlu_tables().items()}
    with pytest.raises(HiesError, match="the subject 'alchemy', which lm-eval lacks"):
        TASKS["mmlu"]().load(write(tmp_path, "cais/mmlu", {"all": tables}), tmp_path)
    labels = made_up("piqa", ["train", "validation"])
    labels["validation"].loc[3, "label"] = -1
    with pytest.raises(HiesError, match="no right answer among its 2 options"):
        TASKS["piqa"]().load(write(tmp_path, "ybisk/piqa", {"plain_text": labels}), tmp_path)
    with pytest.raises(HiesError, match=r"new_tokens is 1024; the model reads 1024 tokens .* cannot write as many"):
        harness.generate(network, tokenizer, ["sun"], {"until": [], "max_gen_toks": 1024}, 1)
    with pytest.raises(HiesError, match="longer than what the model reads"):
        harness.choose(network, tokenizer, {"contexts": [["sun"]], "continuations": [[" 9" * 1100]]}, 1)
    tokenizer.eos_token = None
    with pytest.raises(HiesError, match="eos_token"):
        harness.choose(network, tokenizer, {"contexts": [["sun"]], "continuations": [[" moon"]]}, 1)
    monkeypatch.setattr(lm_eval_definitions, "PACKAGE", "no_such_package")
    with pytest.raises(HiesError, match=r"pip install -e '\.\[llm\]'"):
        TASKS["winogrande"]().identity(tmp_path)


def test_a_command_ends_in_rows(checkpoint, tmp_path, monkeypatch, capsys):
    from experiments import run
    from experiments.config.outside import RESERVED

    root = copy_of(tmp_path / "data", "hellaswag", without=["train"])
    words = ["model=language", f"model.source={checkpoint}", "task=hellaswag", f"data_root={root}", "criterion=hies",
             "sparsity.ratios=[0.5]", "calibration.size=8", f"results_dir={tmp_path}/results",
             f"cache_dir={tmp_path}/cache", "wandb.mode=disabled", "device=cpu"]  # fmt: skip
    monkeypatch.setattr("sys.argv", ["run", *words])
    status, printed = run.main(), capsys.readouterr()
    assert status == 0, printed.err
    words = r"hellaswag: ([\d,]+) tokens computed for the reported options, where lm-eval computes ([\d,]+) \("
    said = re.search(words, printed.out)
    computed, plain = [int(number.replace(",", "")) for number in said.groups()]
    assert 0 < computed < plain and plain % 2 == 0  # the whole model and the masked one are asked the same
    (path,) = (tmp_path / "results").rglob("*.jsonl")
    dense, half = [json.loads(line) for line in path.read_text().splitlines()]
    assert (dense["stability"], dense["examples"], half["heads_removed"]) == (100, 13, 6)
    assert [sum(row[key] for row in (dense, half)) for key in ("tokens_computed", "tokens_plain")] == [computed, plain]
    for row in (dense, half):
        assert (
            row["chance"] == 0.25 and row["calibration_source"] == "validation[:13]" and 0 <= row["quality_norm"] <= 100
        )
        assert row.keys() - {"alpha", "normalize", "seed"} <= RESERVED  # no option of a method has such a name
