"""Accuracy of short answers against those of ten people, as VQA and VizWiz-VQA count it.

The rule is published with the benchmarks (Antol et al. 2015, arXiv 1505.00468; Gurari et al. 2018, arXiv 1802.08218;
https://visualqa.org/evaluation.html): answers are normalized, and an answer is right to the degree min(1, m / 3) if m
people gave it, averaged over the ten ways to leave out one of them.
"""

import json
import re

import numpy as np

from hies.errors import HiesError

COUNTED = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
NUMBER_WORDS = {word: str(number) for number, word in enumerate(COUNTED)} | {"none": "0"}
ARTICLES = {"a", "an", "the"}
BLANKED = re.compile(r"[;/\[\]\"{}()=+\\_\-><@`,?!]")  # currency and percent signs, apostrophes and colons stay
# Contractions by what follows the apostrophe, without those that are other words as they stand (its, well, were, shed).
ENDINGS = {
    "t": "ain aren can couldn didn doesn don hadn hasn haven isn mightn mustn needn shan shouldn wasn weren won wouldn",
    "s": "he how she somebody someone something that there what when where who",
    "d": "he how it somebody someone something that there they what where who you",
    "ll": "how it somebody someone something that there they what who you",
    "ve": "could i might must should they we what who would you",
    "re": "how they what why you",
    "m": "i",
}
CONTRACTIONS = {stem + ending: f"{stem}'{ending}" for ending, stems in ENDINGS.items() for stem in stems.split()} | {
    "oclock": "o'clock",
    "maam": "ma'am",
    "yall": "y'all",
}


def normalized_answer(answer: str) -> str:
    """Returns an answer without what does not count: case, punctuation, articles, number words, missing apostrophes.

    Commas within numbers go, other punctuation makes place for a space, full stops go unless a digit follows.
    """
    text = re.sub(r"(?<=\d),(?=\d)", "", answer.lower())
    text = re.sub(r"\.(?!\d)", "", BLANKED.sub(" ", text))
    words = (NUMBER_WORDS.get(word, word) for word in text.split())
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def agreement_with_people(prediction: str, answers: list[str]) -> float:
    """Returns how right one answer is, from 0 to 1, the mean over all ways to leave out one of the people's answers.

    prediction and answers count by their normalized form.

    Raises:
        HiesError: nobody answered.
    """
    if not answers:
        raise HiesError("An example has no people's answers, so that no answer can be right; leave it out.")
    said = normalized_answer(prediction)
    same, total = sum(normalized_answer(answer) == said for answer in answers), len(answers)
    left_in, left_out = min(1.0, same / 3), min(1.0, (same - 1) / 3)  # where another answer, or an equal one, goes
    return ((total - same) * left_in + same * left_out) / total


def vqa_accuracy(labels: np.ndarray, predictions: np.ndarray) -> float:
    """Returns the mean agreement; labels: the people's answers to each example, as JSON; both strings [examples]."""
    pairs = zip(labels.tolist(), predictions.tolist(), strict=True)
    return float(np.mean([agreement_with_people(prediction, json.loads(answers)) for answers, prediction in pairs]))
