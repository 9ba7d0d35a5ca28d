"""docs: prose without leaks, fair questions, a tokenizer learnt here, and answers that are lm-eval's."""

from collections import Counter
from math import log

import numpy as np
import pytest
import torch
import transformers as tf
from lm_eval_runs import evaluate_by_lm_eval

from hies.errors import HiesError
from hies.evaluation.evaluator import Evaluator
from hies.evaluation.models import Model
from hies.heads.masking import masked
from hies.tasks.embedded.docs import OPTIONS, Docs, Passage, PassagePools, divide_passages, make_questions, words_of
from hies.tasks.embedded.packages import Excerpt, documents, prose
from hies.tasks.splits import Split

TOPICS = [[f"{a}{b}o" for b in "bdfglmnprs"] for a in ("ka", "te", "mi", "zu", "ho", "vy")]


@pytest.mark.parametrize(
    "docstring, text",
    [
        ("Add two.\n\nParameters\n----------\na : int\n    The first.", "Add two. Parameters a : int The first."),
        ("Add numbers.\n\n>>> add(1, 2)\n3\n\nMore words\nfollow here.", "Add numbers. More words follow here."),
        ("See :func:`~a.b.c` or\n    ``this`` one.", "See a.b.c or this one."),
        ("A table follows here.\n\n| 1 | 2 | 3 |\n| 4 | 5 | 6 |", "A table follows here."),
        ("\n\n    ", ""),
    ],
)  # fmt: skip
def test_prose_is_what_a_reader_would_read_aloud(docstring, text):
    assert prose(docstring) == text


def test_every_docstring_is_a_document_and_nothing_is_imported(tmp_path):
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "a.py").write_text('"""A text in a folder of tests."""')
    (tmp_path / "broken.py").write_text("def (:")
    (tmp_path / "b.py").write_text(
        'raise RuntimeError("imported")\nclass A:\n    """Hold a value.\n\n    And more."""\n'
        '    def f(self):\n        """return three"""\n    def g(self): pass\n'
    )
    assert documents(tmp_path) == [Excerpt("Hold a value. And more.", "b.py"), Excerpt("return three", "b.py")]


def corpus(seed=0, files=90, each=3, words=30):
    """Documents of 30 words, each on one of six topics that share no word."""
    draw = np.random.default_rng(seed)
    return [
        Excerpt(" ".join(draw.choice(TOPICS[draw.integers(len(TOPICS))], words)), f"{n}.py")
        for n in range(files)
        for _ in range(each)
    ]


def texts_of(passages):
    return [f"{passage.context} {passage.continuation}" for passage in passages]


def test_a_file_goes_into_one_split_whole_and_questions_begin_documents():
    found = {"one": corpus(0), "two": corpus(1)}
    pools = divide_passages(found, 8, 4)
    files = {split: {passage.file for passage in group} for split, group in pools.passages.items()}
    assert all(files.values()) and sum(map(len, files.values())) == len(set.union(*files.values()))
    by_file = {}
    for library, group in found.items():
        for document in group:
            by_file.setdefault(f"{library}/{document.file}", []).append(document.text.split())
    for split, group in pools.passages.items():
        for passage in group:
            words = f"{passage.context} {passage.continuation}".split()
            starts = [0, 12] if split == "train" else [0]
            assert any(document[s : s + 12] == words for document in by_file[passage.file] for s in starts)
            assert len(passage.context.split()) == 8 and len(passage.continuation.split()) == 4
    known = [document for file in files["train"] for document in by_file[file]]
    assert len(pools.passages["train"]) == 2 * len(known)
    assert pools.counts == Counter(word for document in known for word in document)


def test_the_order_of_reading_does_not_matter():
    pools = divide_passages({"one": corpus()}, 8, 4)
    again = divide_passages({"one": corpus()[::-1]}, 8, 4)
    assert pools == again


def test_a_continuation_that_was_trained_on_or_stands_twice_is_no_question():
    pools = divide_passages({"one": corpus()}, 8, 12)
    held = {split: group[:3] for split, group in pools.passages.items()}
    file = held["train"][0].file.removeprefix("one/")
    run = held["report"][0].continuation.split()
    short = held["report"][1].continuation.split()
    twice = Excerpt(f"{' '.join(TOPICS[0][:8])} {held['report'][2].continuation}", held["selection"][0].file[4:])
    added = [
        Excerpt("Prefix 12 " + ", ".join(run[2:10]).upper(), file),  # eight successive words in another dress
        Excerpt("Prefix " + " ".join(short[2:9]), file),  # seven
        twice,
    ]
    left = divide_passages({"one": [*corpus(), *added]}, 8, 12).passages
    gone = set(pools.passages["report"]) - set(left["report"])
    assert gone == {held["report"][0], held["report"][2]}
    assert left["selection"] == pools.passages["selection"]


def test_a_document_is_taken_once():
    one, other = corpus(files=40), corpus(seed=1, files=40)
    again = [Excerpt(document.text.upper().replace(" ", ", "), document.file) for document in one]
    assert divide_passages({"one": one, "two": [*again, *other]}, 8, 4) == divide_passages(
        {"one": one, "two": other}, 8, 4
    )


def passages(count=40, files=20):
    draw = np.random.default_rng(4)
    words = [word for topic in TOPICS for word in topic]
    return [Passage(f"context {i}", " ".join(draw.choice(words, 5)), f"{i % files}.py") for i in range(count)]


def rarity(text):
    return float(sum(map(ord, text)))


def test_questions_have_the_real_continuation_in_a_balanced_place_and_three_of_other_files():
    given = passages()
    split = make_questions(given, rarity, np.random.SeedSequence(3))
    assert Counter(split.labels.tolist()) == dict.fromkeys(range(OPTIONS), 10)
    assert split.labels.tolist() != [i % OPTIONS for i in range(40)]
    by_text = {f" {passage.continuation}": passage for passage in given}
    for passage, context, options, sizes, right in zip(given, *split.inputs.values(), split.labels, strict=True):
        assert context == [passage.context] and options[right] == f" {passage.continuation}"
        assert len(set(options)) == OPTIONS and sizes == [len(option) - 1 for option in options]
        others = [by_text[option] for i, option in enumerate(options) if i != right]
        assert all(other.file != passage.file for other in others)


def test_wrong_continuations_are_about_as_rare():
    given = passages(200, 200)
    split = make_questions(given, rarity, np.random.SeedSequence(3))
    ranks = {f" {p.continuation}": rank for rank, p in enumerate(sorted(given, key=lambda p: rarity(p.continuation)))}
    for options, right in zip(split.inputs["continuations"], split.labels, strict=True):
        near = [abs(ranks[option] - ranks[options[right]]) for option in options]
        assert max(near) <= 24
        inside = 12 <= ranks[options[right]] < 188
        assert max(near) <= 12 or not inside


def test_another_seed_asks_otherwise_and_the_same_one_alike():
    first, same, other = (make_questions(passages(), rarity, np.random.SeedSequence(seed)) for seed in (3, 3, 4))
    assert first.inputs == same.inputs and np.array_equal(first.labels, same.labels)
    assert first.inputs["continuations"] != other.inputs["continuations"]
    assert not np.array_equal(first.labels, other.labels)


@pytest.mark.parametrize("given", [passages(3), passages(12, 1)])
def test_too_few_passages_are_one_sentence(given):
    with pytest.raises(HiesError, match="too few"):
        make_questions(given, rarity, np.random.SeedSequence(0))


def test_rarity_is_the_improbability_of_words_by_their_frequency():
    pools = PassagePools({}, Counter({"a": 3, "b": 1}))
    assert pools.rarity("A, b 7 new") == pytest.approx(log(5 / 4) + log(5 / 2) + log(5))
    assert words_of("Été_n1 x-y") == ["été", "n", "x", "y"]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Two installed packages whose docstrings keep to a topic."""
    root = tmp_path_factory.mktemp("site")
    for seed, library in enumerate(("madeone", "madetwo")):
        (root / library).mkdir()
        (root / f"{library}-1.0.dist-info").mkdir()
        (root / f"{library}-1.0.dist-info" / "METADATA").write_text(f"Name: {library}\nVersion: 1.0\n")
        (root / library / "__init__.py").write_text("")
        for document in corpus(seed, files=150, each=1, words=72):
            (root / library / document.file).write_text(f'raise RuntimeError\ndef f():\n    """{document.text}"""\n')
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(root))
        yield


TASK = Docs(libraries=("madeone", "madetwo"), context_words=8, continuation_words=4, selection_size=12, report_size=30)
TINY = Model(
    name="tiny",
    modality="language",
    pretrain_task="docs",
    architecture={"model_type": "llama", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
                  "num_key_value_heads": 4, "intermediate_size": 48, "max_position_embeddings": 64},
    max_length=64,
    batch_size=7,
)  # fmt: skip


@pytest.fixture(scope="module")
def bench(installed, tmp_path_factory):
    pytest.importorskip("lm_eval")
    model = Model(**{**vars(TINY), "finetune": type(TINY.finetune)(epochs=4, learning_rate=1e-2, batch_size=32)})
    return Evaluator(model, TASK, None, tmp_path_factory.mktemp("cache"), torch.device("cpu"))


def test_splits_come_from_installed_packages_and_from_the_cache_afterwards(bench, installed, monkeypatch):
    splits = bench.splits
    assert [len(split) for split in (splits.selection, splits.report)] == [12, 30]
    assert set(splits.train.labels) == {0} and {len(c) for c in splits.train.inputs["continuations"]} == {1}
    monkeypatch.setattr("hies.tasks.embedded.docs.documents", None)
    again = TASK.load(None, bench.cache_dir)
    assert again.digest() == splits.digest()


def test_the_tokenizer_is_the_same_after_saving_and_every_time(bench, tmp_path):
    train = bench.splits.train
    tokenizer = TASK.make_processor(train, {}, 64)
    tf.LlamaConfig().save_pretrained(tmp_path)  # as it lies beside the weights of a LLaMA
    tokenizer.save_pretrained(tmp_path)
    loaded = tf.AutoTokenizer.from_pretrained(tmp_path)
    text = f"{train.inputs['contexts'][0][0]} naïve  → x_1\n"
    ids = tokenizer(text)["input_ids"]
    assert loaded(text)["input_ids"] == ids and set(loaded(text)) == {"input_ids", "attention_mask"}
    assert ids[0] == tokenizer.bos_token_id and tokenizer.decode(ids[1:]) == text
    assert TASK.make_processor(train, {}, 64).backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()
    words = (len(tokenizer), tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id)
    assert tuple(TASK.network_options(None, {}, tokenizer).values()) == words
    config = bench.network.config
    assert (config.vocab_size, config.pad_token_id, config.bos_token_id, config.eos_token_id) == words


def test_a_text_to_learn_is_the_context_and_its_real_continuation(bench):
    tokenizer = bench.processor
    options = [[" mifo", " zugo"], [" hodo", " vybo"]]
    examples = Split({"contexts": [["kabo tedo kafo"], ["kabo"]], "continuations": options}, np.array([1, 0]))
    encoded = TASK.encode(examples, tokenizer, 64)
    long, short = tokenizer("kabo tedo kafo zugo")["input_ids"], tokenizer("kabo hodo")["input_ids"]
    assert [feature["input_ids"].tolist() for feature in encoded.features] == [long, short]
    batch, gap = encoded.batch([0, 1]), len(long) - len(short)
    assert gap > 0 and batch["input_ids"].tolist() == [long, short + [tokenizer.pad_token_id] * gap]
    assert batch["labels"].tolist() == [long, short + [-100] * gap]
    assert batch["attention_mask"].sum(1).tolist() == [len(long), len(short)]
    assert TASK.encode(examples, tokenizer, 3).features[0]["input_ids"].tolist() == long[-3:]


def log_likelihoods(network, tokenizer, examples):
    """Of each option, one forward pass for each, without padding; float64 [examples, 4]."""
    found = []
    for (context,), options in zip(examples.inputs["contexts"], examples.inputs["continuations"], strict=True):
        start = len(tokenizer(context)["input_ids"])
        for option in options:
            ids = torch.tensor([tokenizer(context + option)["input_ids"]])
            with torch.no_grad():
                chances = network(ids).logits[0].double().log_softmax(-1)
            found.append(sum(float(chances[place - 1, ids[0, place]]) for place in range(start, ids.shape[1])))
    return np.array(found).reshape(-1, OPTIONS)


@pytest.mark.parametrize("removed", [{}, {"model.layers.0.self_attn": [0, 2], "model.layers.1.self_attn": [1]}])
def test_the_answer_is_the_likeliest_continuation(bench, removed):
    report = bench.splits.report
    with masked(bench.network, removed):
        expected = log_likelihoods(bench.network, bench.processor, report)
    answers = bench._evaluation(removed, "report", None)
    assert np.array_equal(answers["predictions"], expected.argmax(1))
    assert np.array_equal(answers["norm"], (expected / np.array(report.inputs["sizes"])).argmax(1))


def test_a_small_model_learns_to_tell_and_its_accuracy_is_that_of_lm_eval(bench):
    import datasets
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.models.huggingface import HFLM

    report = bench.splits.report
    rows = {
        "context": [context for (context,) in report.inputs["contexts"]],
        "choices": [[option[1:] for option in options] for options in report.inputs["continuations"]],
        "label": report.labels,
    }
    config = {
        "task": "docs", "custom_dataset": lambda **_: {"test": datasets.Dataset.from_dict(rows)}, "test_split": "test",
        "output_type": "multiple_choice", "doc_to_text": "{{context}}", "doc_to_choice": "choices",
        "doc_to_target": "label", "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    }  # fmt: skip
    model = HFLM(pretrained=bench.network, tokenizer=bench.processor, batch_size=4)
    found = evaluate_by_lm_eval(model, [ConfigurableTask(config=config)])["results"]["docs"]
    outcome = bench.evaluate({})
    assert found["acc,none"] == np.mean(outcome.answers == report.labels) > 0.6
    assert found["acc_norm,none"] == np.mean(outcome.by_rule["norm"] == report.labels)
    assert [*outcome.by_rule] == ["norm"] and {*outcome.losses} == {"losses", "token_losses"}


def test_the_identity_follows_versions_and_the_knobs_that_change_the_data(installed):
    pytest.importorskip("lm_eval")
    same = [TASK, Docs(**{**vars(TASK), "max_examples": 3})]
    changed = [
        {"libraries": ("madeone",)}, {"context_words": 9}, {"continuation_words": 5}, {"train_size": 7},
        {"selection_size": 7}, {"report_size": 7}, {"data_seed": 1},
    ]  # fmt: skip
    others = [Docs(**{**vars(TASK), **change}) for change in changed]
    assert len({task.identity(None) for task in same}) == 1
    assert len({task.identity(None) for task in [TASK, *others]}) == 1 + len(others)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"libraries": ()}, "at least 1"),
        ({"libraries": ("numpy", "numpy")}, "each once"),
        ({"continuation_words": 0}, "continuation_words"),
        ({"report_size": 0}, "at least 1"),
        ({"data_seed": -1}, "data_seed"),
    ],
)
def test_knobs_that_cannot_be_are_refused(options, words):
    with pytest.raises(HiesError, match=words):
        Docs(**options)


def test_too_little_text_is_one_sentence(installed, tmp_path):
    pytest.importorskip("lm_eval")
    with pytest.raises(HiesError, match="too little text"):
        Docs(**{**vars(TASK), "context_words": 500}).load(None, tmp_path)
    with pytest.raises(HiesError, match="nosuchlib"):
        Docs(libraries=("nosuchlib",)).identity(None)
