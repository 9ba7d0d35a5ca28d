"""Own texts and own questions: losses and answers as a plain loop finds them, and slips as sentences."""

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import torch
import transformers as tf
from small_folders import causal_folder

from hies.errors import HiesError
from hies.evaluation.evaluator import Evaluator
from hies.evaluation.metrics import quality
from hies.evaluation.models import Model
from hies.tasks import TASKS
from hies.tasks.own.text import FOLLOWING, pieces

CPU = torch.device("cpu")
PROSE = " ".join(f"The {['sun', 'moon', 'river'][i % 3]} number {i} is here." for i in range(260))


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return causal_folder(tmp_path_factory.mktemp("models") / "llama")


@pytest.fixture(scope="module")
def prose(tmp_path_factory):
    path = tmp_path_factory.mktemp("texts") / "prose.txt"
    path.write_text(PROSE)
    return path


def evaluator(llama, task, tmp_path, **options):
    return Evaluator(Model(source=str(llama), modality="language", **options), task, None, tmp_path / "cache", CPU)


def test_pieces_are_the_text_cut_between_words_with_what_follows():
    found = list(pieces(PROSE, 100))
    assert " ".join(piece for piece, _ in found) == PROSE[: len(PROSE) - len(PROSE.split(found[-1][0])[1])]
    for (piece, after), (following, _) in pairwise(found):
        assert 50 <= len(piece) <= 100 and following.startswith(after) and len(after) <= FOLLOWING
    assert [piece for piece, _ in pieces("x" * 250, 100)] == ["x" * 100, "x" * 100]  # a text without blanks
    assert not list(pieces("too short", 100))


def test_the_loss_of_a_text_is_that_of_its_tokens_and_the_answer_is_the_next_one(llama, prose, tmp_path):
    task = TASKS["text"](train=str(prose), characters=100, max_examples=13)
    ours = evaluator(llama, task, tmp_path, batch_size=5)
    found, split = ours.evaluate({}), ours.splits.report
    network, tokens = tf.AutoModelForCausalLM.from_pretrained(llama).eval(), tf.AutoTokenizer.from_pretrained(llama)
    for place, text in enumerate(split.inputs["text"]):
        ids = tokens(text, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            scores = network(input_ids=ids).logits[0].double().log_softmax(-1)
        nats = -scores[:-1].gather(1, ids[0, 1:, None]).mean()
        assert found.losses["losses"][place] == pytest.approx(float(nats), rel=1e-4)
        assert found.answers[place] == tokens.decode([int(scores[-1].argmax())]).strip()
    assert np.array_equal(found.losses["losses"], found.losses["token_losses"]) and task.name == "prose"
    assert np.isfinite(ours.statistics(frozenset({"his"}), 0, 5).his[next(iter(ours.sites))]).all()


def test_a_right_token_begins_what_follows():
    texts, tokens = np.array(["the end", "so on", "x", "y"]), np.array(["th", "the", "", "y"])
    assert quality("next_token", texts, tokens) == (0.5, 50.0)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", r"^words\.txt is empty"),
        (b" \n ", r"^words\.txt is empty; task\.train needs a file with text"),
        ("ü".encode("latin-1"), r"^words\.txt, line 1, byte 1: it is not in utf-8"),
        (b"a short text", r"^words\.txt has 0 pieces from which splits cannot be drawn; give more of them"),
    ],
)
def test_a_text_that_cannot_be_read_is_refused(tmp_path, content, says):
    path = tmp_path / "words.txt"
    path.write_bytes(content)
    with pytest.raises(HiesError, match=says):
        TASKS["text"](train=str(path)).load(None, tmp_path)
    with pytest.raises(HiesError, match=r"^characters is 5; a piece has at least 20"):
        TASKS["text"](train=str(path), characters=5)


def test_a_piece_of_a_single_token_is_refused_with_its_line(tmp_path):
    gap = " " * 70
    path = tmp_path / "wide.txt"
    path.write_text("\n".join(f"{'so it goes on ' * 12}\n{gap}{'w' if i % 2 else 'two'}{gap}" for i in range(40)))
    task = TASKS["text"](train=str(path), characters=100)
    split = task.load_checked(None, tmp_path).report

    def letters(texts):
        return {"input_ids": [[*map(ord, text)] for text in texts]}

    letters.pad_token_id = 0
    says = r"^wide\.txt, line 4: 'w' is a piece of a single token of this model, which has no loss; take out the blanks"
    with pytest.raises(HiesError, match=says):
        task.encode(split, letters, 128)
    long = split.take([place for place, text in enumerate(split.inputs["text"]) if text != "w"])
    assert min(len(text) for text in long.inputs["text"]) > 1 and len(task.encode(long, letters, 128)) == len(long)


def questions(count=40, **change):
    return [
        {"question": f"Which is {i}?", "options": ["sun", "moon", f"river {i}"][: 2 + i % 2], "answer": "sun", **change}
        for i in range(count)
    ]


def choice(tmp_path, rows, **options):
    path = tmp_path / "quiz.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return TASKS["choice"](train=str(path), **options)


def test_answers_may_be_letters_numbers_or_the_options(llama, tmp_path):
    answers = ([0, 1][i // 3 % 2] for i in range(40))
    rows = [{**row, "answer": right} for row, right in zip(questions(), answers, strict=True)]
    task = choice(tmp_path, rows)
    first = task.load_checked(None, tmp_path)
    letters = [{**row, "answer": "AB"[row["answer"]]} for row in rows]
    options = [{**row, "answer": row["options"][row["answer"]]} for row in rows]
    assert all(choice(tmp_path, other).load(None, tmp_path).digest() == first.digest() for other in (letters, options))
    wide = pd.DataFrame([
        {"question": row["question"], **dict(zip("ABC", row["options"], strict=False)), "answer": row["answer"]}
        for row in rows
    ])  # fmt: skip
    wide.to_csv(tmp_path / "quiz.csv", index=False)
    table = TASKS["choice"](train=str(tmp_path / "quiz.csv"))
    assert table.load_checked(None, tmp_path).digest() == first.digest()
    ours = evaluator(llama, task, tmp_path)
    found = ours.evaluate({})
    network, tokens = tf.AutoModelForCausalLM.from_pretrained(llama).eval(), tf.AutoTokenizer.from_pretrained(llama)
    for place in range(3):
        (context,), texts = first.report.inputs["contexts"][place], first.report.inputs["continuations"][place]
        assert context.startswith("Question: Which is ") and context.endswith("?\nAnswer:")
        sums = []
        for text in texts:
            start, ids = (tokens(one, return_tensors="pt")["input_ids"] for one in (context, context + text))
            with torch.no_grad():
                scores = network(input_ids=ids).logits[0].double().log_softmax(-1)
            each = scores[:-1].gather(1, ids[0, 1:, None])[:, 0]
            sums.append(float(each[start.shape[1] - 1 :].sum()))
        assert found.answers[place] == int(np.argmax(sums))
        expected = np.logaddexp.reduce(sums) - sums[first.report.labels[place]]
        assert found.losses["losses"][place] == pytest.approx(expected, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"answer": "mars"}, r"^quiz\.jsonl, row 1, column 'answer': 'mars' is none of the 2 options; give letters"),
        ({"answer": "1" * 5000}, r"row 1, column 'answer': '1+\.\.\. is none of the 2 options"),
        ({"answer": 3}, r"row 1, column 'answer': 3 is none of the 2 options"),
        ({"options": ["1", "0"], "answer": 1}, r"row 1, column 'answer': 1 can be read as options and as numbers"),
        ({"options": ["sun"]}, r"row 1, column 'options': there are fewer than two options"),
        ({"options": ["sun", "sun"]}, r"row 1, column 'options': two options are the same"),
        ({"options": ["sun", None]}, r"row 1, column 'options': there is no text"),
        ({"options": "sun"}, r"row 1, column 'options': 'sun' is no list of options; give a list"),
        ({"question": ""}, r"row 1, column 'question': there is no text"),
    ],
)  # fmt: skip
def test_a_question_that_cannot_be_asked_is_refused(tmp_path, change, says):
    with pytest.raises(HiesError, match=says):
        choice(tmp_path, questions(**change)).load(None, tmp_path)


@pytest.mark.parametrize("kind", [int, str])
def test_numbers_that_may_count_from_1_are_refused(tmp_path, kind):
    rows = [{**row, "options": list("abcd"), "answer": kind(1 + i % 3)} for i, row in enumerate(questions())]
    says = (
        r"^task\.answer is 'answer'; its numbers are 1 to 3, never 0, .* give letters from A, or the options themselves"
    )
    with pytest.raises(HiesError, match=says):
        choice(tmp_path, rows).load(None, tmp_path)
    with pytest.raises(HiesError, match="its numbers are 1 to 1"):
        choice(tmp_path, [{**row, "answer": kind(1)} for row in questions()]).load(None, tmp_path)
    report = tmp_path / "report.jsonl"
    report.write_text("\n".join(json.dumps({**row, "question": row["question"] + "?"}) for row in rows))
    from_0 = [{**rows[0], "answer": kind(0)}, *rows[1:]]  # says of the report, too, where numbers start
    task = choice(tmp_path, from_0, report=str(report))
    assert set(task.load(None, tmp_path).report.labels.tolist()) == {1, 2, 3}
    letters = [{**row, "answer": "BCD"[i % 3]} for i, row in enumerate(rows)]
    named = [{**row, "answer": "bcd"[i % 3]} for i, row in enumerate(rows)]
    for other in (letters, named):
        assert set(choice(tmp_path, other).load(None, tmp_path).train.labels.tolist()) == {1, 2, 3}


def test_columns_of_questions_and_the_prompt_are_options(tmp_path):
    rows = [{"asked": row["question"], "choices": row["options"], "label": 0} for row in questions()]
    with pytest.raises(HiesError, match=r"^task\.question is None; quiz\.jsonl has the columns asked, choices, label"):
        choice(tmp_path, rows).load(None, tmp_path)
    with pytest.raises(HiesError, match=r"^task\.answer is 'right'; quiz\.jsonl has the columns"):
        choice(tmp_path, rows, question="asked", answer="right").load(None, tmp_path)
    task = choice(tmp_path, rows, question="asked", prompt="{question} It is")
    assert all(text.endswith("? It is") for (text,) in task.load(None, tmp_path).report.inputs["contexts"])
    assert replace(task, prompt="{question}").identity(None) != task.identity(None)
    with pytest.raises(HiesError, match=r"^prompt is 'Answer:'; it holds \{question\}"):
        choice(tmp_path, rows, prompt="Answer:")
    with pytest.raises(HiesError, match=r"^prompt is .*; \{hint\} stands for nothing, \{question\} alone does"):
        choice(tmp_path, rows, prompt="{hint} {question}")
    for option, value in (("id", "key"), ("separator", "xx")):
        with pytest.raises(HiesError, match=rf"^task\.{option} is '{value}'; (quiz\.jsonl has|give a single)"):
            choice(tmp_path, rows, question="asked", **{option: value}).load(None, tmp_path)
    for options in (7, [], ["choices", "choices"]):
        with pytest.raises(HiesError, match=r"^task\.options is .*; (quiz\.jsonl has|name a column, or a list)"):
            choice(tmp_path, rows, question="asked", options=options).load(None, tmp_path)
    assert "questions in 'asked', options in 'choices', answers in 'label'; 24 to" in task.description(None)
