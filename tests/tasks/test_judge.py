"""The judge against a small local server: grades, refusals, tries again, asks once; and MM-Vet with and without it."""

import json
import threading
from collections import deque
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pytest
from visual_copy import write_copies, write_llava

from experiments import run
from experiments.sweep import job as job_module
from hies.errors import HiesError
from hies.tasks.vqa import judge as judge_module
from hies.tasks.vqa import vizwiz
from hies.tasks.vqa.judge import Judge, grade_in
from hies.tasks.vqa.mmvet import MMVet

KEY = "sk-very-secret-0123456789"


class Stub:
    """An endpoint that gives planned answers, (status, text) or a text, then the grade 0.5 for ever."""

    def __init__(self):
        self.planned, self.seen = deque(), []
        self.grade = lambda content: "0.5"
        stub = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                stub.seen.append((self.path, dict(self.headers), body))
                status, text = stub.planned.popleft() if stub.planned else (200, None)
                if text is None:
                    reply = stub.grade(body["messages"][-1]["content"])
                    text = json.dumps({"choices": [{"message": {"role": "assistant", "content": reply}}]})
                self.send_response(status)
                if status == 302:
                    self.send_header("Location", f"{stub.url}/elsewhere")
                self.end_headers()
                self.wfile.write(text.encode())

            do_GET = do_POST

            def log_message(self, *_):
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def says(self, *replies):
        self.planned.extend((200, json.dumps({"choices": [{"message": {"content": reply}}]})) for reply in replies)


@pytest.fixture
def stub(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(judge_module, "PAUSE", 0)
    found = Stub()
    yield found
    found.server.shutdown()
    found.server.server_close()


@pytest.fixture(autouse=True)
def no_judge(monkeypatch):
    for name in ("URL", "MODEL", "KEY"):
        monkeypatch.delenv(f"HIES_JUDGE_{name}", raising=False)


CASE = ("What is in the cup?", "tea<AND>milk", "Some tea.")


@pytest.mark.parametrize(
    ("reply", "grade"),
    [
        ("0.4", 0.4), (" 1.0\n", 1.0), ("1", 1.0), ("0", 0.0), (".5", 0.5), ("0.7.", 0.7), ("1.00", 1.0),
        ("", None), ("1.1", None), ("-0.2", None), ("2", None), ("nan", None), ("0.5 or 0.6", None), ("good", None),
        ("5/10", None), ("Grade: 0.5", None), ("1e-1", None), ("0,5", None), ("0.", 0.0),
    ],
)  # fmt: skip
def test_a_grade_is_a_reply_that_is_a_number_from_0_to_1(reply, grade):
    assert grade_in(reply) == grade


def test_a_judge_is_asked_as_an_openai_endpoint_once(stub, tmp_path):
    stub.says("0.3")
    judge = Judge(stub.url, "some-judge", KEY)
    assert judge.grade(*CASE, tmp_path) == 0.3
    ((path, headers, body),) = stub.seen
    assert path == "/v1/chat/completions" and headers["Authorization"] == f"Bearer {KEY}"
    assert body["model"] == "some-judge" and body["temperature"] == 0
    (message,) = body["messages"]
    assert message["role"] == "user" and all(part in message["content"] for part in CASE)
    assert message["content"].endswith("Grade:")
    assert Judge(stub.url, "some-judge").grade(*CASE, tmp_path) == 0.3 and len(stub.seen) == 1
    assert KEY not in repr(judge) and not any(KEY in file.read_text() for file in tmp_path.rglob("*.*"))


@pytest.mark.parametrize("place", range(4))
def test_another_question_truth_answer_or_judge_is_asked_anew(stub, tmp_path, place):
    stub.says("0.3", "0.9")
    Judge(stub.url, "one").grade(*CASE, tmp_path)
    case, model = list(CASE), "one"
    if place < 3:
        case[place] += "!"
    else:
        model = "two"
    assert Judge(stub.url, model).grade(*case, tmp_path) == 0.9 and len(stub.seen) == 2


def test_without_a_key_none_is_sent(stub, tmp_path):
    Judge(stub.url, "local").grade(*CASE, tmp_path)
    assert "Authorization" not in stub.seen[0][1]


def test_another_reply_is_asked_about_once_and_then_refused(stub, tmp_path):
    stub.says("I think it is quite good.", "0.8")
    judge = Judge(stub.url, "chatty")
    assert judge.grade(*CASE, tmp_path) == 0.8
    roles = [message["role"] for message in stub.seen[1][2]["messages"]]
    assert roles == ["user", "assistant", "user"] and "one number" in stub.seen[1][2]["messages"][2]["content"]
    stub.says("I think it is quite good.", "Eight of ten.")
    with pytest.raises(HiesError, match=r"judge 'chatty' replied 'Eight of ten\.' where a number") as raised:
        judge.grade("Another?", *CASE[1:], tmp_path)
    assert "\n" not in str(raised.value)
    stub.says("0.1")  # a refusal is not kept
    assert judge.grade("Another?", *CASE[1:], tmp_path) == 0.1


@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_busy_endpoint_is_asked_again(stub, tmp_path, status):
    stub.planned.extend([(status, "busy")] * 4)
    assert Judge(stub.url, "busy").grade(*CASE, tmp_path) == 0.5 and len(stub.seen) == 5
    stub.planned.extend([(status, "busy")] * 5)
    with pytest.raises(HiesError, match=rf"127\.0\.0\.1 answers with status {status}, 5 times"):
        Judge(stub.url, "busier").grade(*CASE, tmp_path)
    assert len(stub.seen) == 10


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (401, "HIES_JUDGE_KEY"),
        (403, "HIES_JUDGE_KEY"),
        (404, "HIES_JUDGE_URL"),
        (400, "HIES_JUDGE_MODEL"),
        (302, "302"),
    ],
)
def test_a_refusal_is_one_sentence_without_the_key(stub, tmp_path, status, words):
    stub.planned.append((status, f"Incorrect API key provided: {KEY}"))
    with pytest.raises(HiesError, match=words) as raised:
        Judge(stub.url, "strict", KEY).grade(*CASE, tmp_path)
    assert KEY not in str(raised.value) and len(stub.seen) == 1 and raised.value.__cause__ is None


@pytest.mark.parametrize("text", ["", "<html>", "[]", '{"choices": []}', '{"choices": [{"text": "0.5"}]}', "7"])
def test_another_kind_of_endpoint_is_one_sentence(stub, tmp_path, text):
    stub.planned.append((200, text))
    with pytest.raises(HiesError, match=r"127\.0\.0\.1 does not answer as OpenAI's"):
        Judge(stub.url, "other").grade(*CASE, tmp_path)


def test_an_endpoint_that_is_not_there_is_one_sentence(stub, tmp_path):
    stub.server.shutdown()
    stub.server.server_close()
    with pytest.raises(HiesError, match=r"127\.0\.0\.1 cannot be reached \(\w+\), 5 times"):
        Judge(stub.url, "gone").grade(*CASE, tmp_path)


def test_the_environment_names_a_judge_whole_or_not_at_all(monkeypatch):
    assert Judge.from_environment() is None and MMVet().judge is None
    monkeypatch.setenv("HIES_JUDGE_KEY", KEY)
    assert Judge.from_environment() is None
    monkeypatch.setenv("HIES_JUDGE_MODEL", "m")
    with pytest.raises(HiesError, match=r"HIES_JUDGE_URL is not set, but HIES_JUDGE_MODEL is"):
        Judge.from_environment()
    monkeypatch.setenv("HIES_JUDGE_URL", "example.org/v1")
    with pytest.raises(HiesError, match=r"HIES_JUDGE_URL is no address"):
        Judge.from_environment()
    monkeypatch.setenv("HIES_JUDGE_URL", "https://example.org/v1/")
    assert Judge.from_environment() == Judge("https://example.org/v1", "m", KEY) and MMVet().judge == "m"
    monkeypatch.setenv("HIES_JUDGE_KEY", f"{KEY}\n")
    with pytest.raises(HiesError, match=r"HIES_JUDGE_KEY holds characters") as raised:
        Judge.from_environment()
    assert KEY not in str(raised.value)
    monkeypatch.setenv("HIES_JUDGE_KEY", "")
    assert Judge.from_environment().key is None
    monkeypatch.delenv("HIES_JUDGE_MODEL")
    with pytest.raises(HiesError, match=r"HIES_JUDGE_MODEL is not set"):
        Judge.from_environment()


# --- MM-Vet -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Data, model and cache that the runs below share."""
    root = tmp_path_factory.mktemp("mmvet")
    write_copies(root / "data")
    write_llava(root / "llava")
    return root


@pytest.fixture
def call(places, tmp_path, monkeypatch, capsys):
    def call(name="run", criterion="l2"):
        words = [
            "model=any", f"model.source={places}/llava", "model.modality=vision_language", "model.sites=language_model",
            "task=mmvet", f"data_root={places}/data", f"cache_dir={places}/cache", f"results_dir={tmp_path}/{name}",
            f"criterion={criterion}", "sparsity.ratios=[0.5]", "calibration.size=4", "wandb.mode=disabled",
        ]  # fmt: skip
        monkeypatch.setattr(MMVet, "max_new_tokens", 4)
        monkeypatch.setattr(vizwiz, "FOR_CALIBRATION", 7)
        monkeypatch.setattr(vizwiz, "FOR_SELECTION", 3)
        monkeypatch.setattr("sys.argv", ["run", *words])
        status = run.main()
        err = capsys.readouterr().err
        rows = [json.loads(line) for path in (tmp_path / name).rglob("*.jsonl") for line in path.open()]
        arrays = [dict(np.load(path)) for path in (tmp_path / name).rglob("*.npz")]
        return status, rows, arrays, err

    return call


def test_mm_vet_reports_all_of_it_and_calibrates_on_vizwiz(places, monkeypatch, tmp_path):
    monkeypatch.setattr(vizwiz, "FOR_CALIBRATION", 7)
    monkeypatch.setattr(vizwiz, "FOR_SELECTION", 3)
    splits, data = MMVet().load(places / "data", tmp_path), places / "data"
    assert [len(part) for part in (splits.train, splits.selection, splits.report)] == [7, 3, 7]
    assert splits.report.labels[0] == "four<AND>five" and splits.report.inputs["question"][0].endswith("?")
    answers = [json.loads(label) for label in vizwiz.holdout(data)[0].labels]
    assert [max(given, key=given.count) for given in answers] == splits.train.labels.tolist()
    assert MMVet().notes(data) == {"calibration_source": "lmms-lab/VizWiz-VQA val[:7]", "judge": None}


def test_without_a_judge_there_are_answers_and_stability_and_no_quality(call):
    status, rows, (arrays,), _ = call()
    assert status == 0 and [(row["value"], row["quality"], row["judge"]) for row in rows] == [(None, None, None)] * 2
    assert arrays["predictions"].shape == (2, 7) and len(set(arrays["predictions"][0])) > 2
    agreement = 100 * (arrays["predictions"][1] == arrays["predictions"][0]).mean()
    assert rows[0]["stability"] == 100 and rows[1]["stability"] == pytest.approx(agreement)


def test_without_a_judge_alpha_is_not_chosen_by_quality(call):
    status, rows, _, err = call(criterion="hies_per_ratio")
    assert status == 1 and not rows and "criterion.alpha is 'per_ratio'" in err and "task=mmvet" in err


def test_a_judge_grades_the_answers_that_are_there_in_a_run_of_its_own(call, stub, places, monkeypatch, tmp_path):
    _, without, (before,), _ = call()
    monkeypatch.setenv("HIES_JUDGE_URL", stub.url)
    monkeypatch.setenv("HIES_JUDGE_MODEL", "stub-judge")
    monkeypatch.setenv("HIES_JUDGE_KEY", KEY)
    stub.grade = lambda content: f"0.{len(content) % 10}"
    evaluated = job_module.pass_counter().evaluated
    status, rows, (arrays,), err = call("judged")
    assert status == 0 and (arrays["predictions"] == before["predictions"]).all()
    assert job_module.pass_counter().evaluated == evaluated
    report = MMVet().load(places / "data", tmp_path).report
    asked = {body["messages"][0]["content"] for *_, body in stub.seen}

    def length(question, truth, answer):
        end = f"Question: {question}\nReference answer: {truth}\nGraded answer: {answer}\nGrade:"
        (content,) = [content for content in asked if content.endswith(end)]
        return len(content)

    for row, answers in zip(rows, arrays["predictions"], strict=True):
        cases = zip(report.inputs["question"], report.labels, answers, strict=True)
        assert row["value"] == pytest.approx(np.mean([length(*case) % 10 / 10 for case in cases]))
        assert row["quality"] == pytest.approx(100 * row["value"]) and row["judge"] == "stub-judge"
    assert {row["run_id"] for row in rows}.isdisjoint(row["run_id"] for row in without)
    calls = len(stub.seen)
    assert call("again")[1][1]["quality"] == rows[1]["quality"] and len(stub.seen) == calls
    written = [file for folder in (tmp_path, places) for file in folder.rglob("*") if file.is_file()]
    assert KEY not in err and not any(KEY.encode() in file.read_bytes() for file in written)


def test_a_judge_that_refuses_fails_the_job_with_one_sentence_and_no_row(call, stub, monkeypatch):
    monkeypatch.setenv("HIES_JUDGE_URL", stub.url)
    monkeypatch.setenv("HIES_JUDGE_MODEL", "strict")
    stub.planned.append((401, ""))
    status, rows, arrays, err = call()
    assert status == 1 and not rows and not arrays and "HIES_JUDGE_KEY" in err and "Traceback" not in err
