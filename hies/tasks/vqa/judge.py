"""A judge: a language model behind an OpenAI-compatible endpoint that grades open answers from 0 to 1.

The environment names it: HIES_JUDGE_URL (up to `/v1`), HIES_JUDGE_MODEL, and HIES_JUDGE_KEY where the endpoint asks for
one. The key goes into the header of the requests and nowhere else.
"""

import json
import os
import re
import time
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from hies.errors import HiesError
from hies.storage import cached, digest

GRADING = """\
You grade answers to questions about a picture that you cannot see. You are given the question, the reference answer and
the answer to be graded. The grade is a number between 0.0 (nothing of it is right) and 1.0 (everything is right), in
steps of 0.1: the share of the reference answer that the graded answer states correctly. Wording, order and length do
not count, and nothing is lost by true statements beside the point; a contradiction loses what it contradicts.
In a reference answer <AND> joins parts that are all needed, and <OR> joins alternatives of which one is enough.
Reply with the number alone.
"""
EXAMPLES = (
    ("How many wheels do the two vehicles have?", "4 <AND> 2", "The car has four wheels and so has the other.", "0.5"),
    ("How many wheels do the two vehicles have?", "4 <AND> 2", "A car with four wheels next to a bicycle, two.", "1.0"),
    ("What does the sign forbid?", "parking <OR> stopping", "You must not park here.", "1.0"),
    ("What does the sign forbid?", "parking <OR> stopping", "Turning left.", "0.0"),
    (
        "Why might the man laugh?",
        "His dog wears his hat and glasses and sits at his desk, as if it did his work.",
        "There is a dog in the picture that has a hat on, which looks funny.",
        "0.4",
    ),
)
CASE = "Question: {}\nReference answer: {}\nGraded answer: {}\nGrade: {}\n"
REMINDER = "Reply with one number between 0.0 and 1.0 and nothing else."
GRADE = re.compile(r"0|1|0?\.\d+|1\.0+")
REQUEST_TRIES = 5  # of a request that the endpoint cannot serve at the moment
PAUSE = 1.0  # seconds before the second try; twice as long before each further one
JUDGE_TIMEOUT = 120  # seconds


@dataclass(frozen=True)
class Judge:
    """A model that grades.

    Attributes:
        url: of the endpoint, up to `/v1`.
        model: what the endpoint calls it.
        key: None where the endpoint asks for none.
    """

    url: str
    model: str
    key: str | None = field(default=None, repr=False)

    @classmethod
    def from_environment(cls) -> "Judge | None":
        """Returns the judge that the environment names, None if it names none; HiesError if it names half of one."""
        url, model, key = (os.environ.get(f"HIES_JUDGE_{name}") for name in ("URL", "MODEL", "KEY"))
        if not url and not model:
            return None
        if not url or not model:
            raise HiesError(
                f"HIES_JUDGE_{'MODEL' if url else 'URL'} is not set, but HIES_JUDGE_{'URL' if url else 'MODEL'} is; a "
                "judge needs both (and none is asked where neither is set)."
            )
        if key and not (key.isascii() and key.isprintable()):  # an error of the HTTP library would print it
            raise HiesError("HIES_JUDGE_KEY holds characters that no key has, such as a line break; set it anew.")
        if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
            raise HiesError("HIES_JUDGE_URL is no address of an endpoint; it looks like https://host/v1.")
        return cls(url.rstrip("/"), model, key or None)

    def grade(self, question: str, truth: str, answer: str, cache_dir: Path) -> float:
        """Returns how right `answer` is, from 0 to 1; asked once, and kept in `cache_dir` from then on.

        Raises:
            HiesError: the endpoint cannot be reached or refuses, or the judge gives no grade.
        """
        key = [question, truth, answer, self.model, GRADING, EXAMPLES, REMINDER]
        path = cache_dir / "judge" / f"{digest(key, 16)}.json"
        return cached(path, lambda: self._ask(question, truth, answer), _write, _read)

    def _ask(self, question: str, truth: str, answer: str) -> float:
        messages = [{"role": "user", "content": _prompt(question, truth, answer)}]
        for _ in range(2):
            reply = self._reply(messages)
            if (grade := grade_in(reply)) is not None:
                return grade
            # At temperature 0 the same request would get the same reply.
            messages += [{"role": "assistant", "content": reply}, {"role": "user", "content": REMINDER}]
        raise HiesError(
            f"The judge {self.model!r} replied {reply[:60]!r} where a number from 0 to 1 was asked for; set "
            "HIES_JUDGE_MODEL to a model that follows the instruction."
        )

    def _reply(self, messages: list[dict[str, str]]) -> str:
        body = json.dumps({"model": self.model, "temperature": 0, "messages": messages}).encode()
        received = self._sent(body)
        try:
            return str(json.loads(received)["choices"][0]["message"]["content"] or "").strip()
        except (ValueError, KeyError, IndexError, TypeError):
            raise HiesError(
                f"The judge's endpoint at {self._host} does not answer as OpenAI's chat completions do; HIES_JUDGE_URL "
                "is the part of its address before /chat/completions."
            ) from None

    def _sent(self, body: bytes) -> bytes:
        """Returns what the endpoint answers to a request, sent again while it is busy or fails."""
        import httpx  # which follows no redirect: one would carry the key to wherever it leads

        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self.key}"} if self.key else {})
        address, problem = f"{self.url}/chat/completions", ""
        for attempt in range(REQUEST_TRIES):
            if attempt:
                time.sleep(PAUSE * 2 ** (attempt - 1))
            try:
                response = httpx.post(address, content=body, headers=headers, timeout=JUDGE_TIMEOUT)
            except httpx.HTTPError as error:
                problem = f"cannot be reached ({type(error).__name__})"
                continue
            if response.is_success:
                return response.content
            if response.status_code != 429 and response.status_code < 500:
                raise HiesError(self._refusal(response.status_code))  # without its text, which could repeat the key
            problem = f"answers with status {response.status_code}"
        raise HiesError(f"The judge's endpoint at {self._host} {problem}, {REQUEST_TRIES} times; try again later.")

    def _refusal(self, status: int) -> str:
        advice = f"check HIES_JUDGE_URL (up to /v1) and HIES_JUDGE_MODEL ({self.model!r})"
        if status in (401, 403):
            advice = "set HIES_JUDGE_KEY to a key that it accepts"
        return f"The judge's endpoint at {self._host} refuses with status {status}; {advice}."

    @property
    def _host(self) -> str:
        return str(urlsplit(self.url).hostname)  # the rest of an address may hold a password


def grade_in(reply: str) -> float | None:
    """Returns the grade that a reply consists of; None for any other reply."""
    text = reply.strip().rstrip(".")
    return float(text) if GRADE.fullmatch(text) else None


def _prompt(question: str, truth: str, answer: str) -> str:
    cases = (CASE.format(*case) for case in (*EXAMPLES, (question, truth, answer, "")))
    return "\n".join([GRADING, *cases]).rstrip()


def _write(path: Path, grade: float) -> None:
    path.write_text(json.dumps({"grade": grade}), encoding="utf-8")


def _read(path: Path) -> float:
    return float(json.loads(path.read_text(encoding="utf-8"))["grade"])
