"""First sentences of the docstrings of installed packages, read from their source files and never by importing them."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

FORMAT = 2  # to be raised when the sentences change
SKIPPED = {
    "tests",
    "test",
    "testing",
    "conftest.py",
    "externals",
    "_vendor",
    "vendored",
    "_external",
    "array_api_compat",
    "models",  # transformers' hundreds of near-copies
}
WORDS = "aten transformers datasets dataset hf pd np mpl plt"
STEMS = "torch pandas numpy scipy scikit sklearn matplotlib pyplot pylab hugging"
# A library's own name would give the answer away, inside an identifier too; of a dotted name the rest stays.
OWN_NAMES = re.compile(
    rf"\b(?:{'|'.join(WORDS.split())}|\w*(?:{'|'.join(STEMS.split())})\w*(?:[ -](?:face|learn))?)\b\.?", re.IGNORECASE
)
MARKUP = [
    (re.compile(r":[\w:+-]+:`~?([^`<]*?)(?:\s*<[^`>]*>)?`"), r"\1"),  # :class:`~a.b.C`
    (re.compile(r"\[([^\]]*)\]\([^)]*\)"), r"\1"),  # [text](link)
    (re.compile(r"<[^<>]+>|https?://\S+|\.\. \w+::|>>>.*"), " "),
    (re.compile(r"[`*|~]|\[|\]"), ""),
]
SENTENCE = re.compile(r"^[A-Z].*?[.!?](?=\s|$)", re.DOTALL)  # what has no full stop is a list or a signature


@dataclass(frozen=True)
class Sentence:
    """A cleaned first sentence. file: where it stands, relative to the package.

    key: the sentence without what near-copies differ in: case, digits, identifiers in camel case.
    """

    text: str
    file: str
    key: str


def sentences(folder: Path) -> Iterator[Sentence]:
    """Every docstring's first sentence below a package's folder, files in the order of their names."""
    for docstring, file in docstrings(folder):
        match = SENTENCE.match(docstring.strip().split("\n\n")[0])
        if match is not None:
            text = clean(match.group())
            yield Sentence(text, file, _key(text))


def docstrings(folder: Path) -> Iterator[tuple[str, str]]:
    """Every docstring below a package's folder, and the file that it stands in; files in the order of their names."""
    for path in sorted(folder.rglob("*.py"), key=lambda p: p.relative_to(folder).as_posix()):
        parts = path.relative_to(folder).parts
        if not SKIPPED.isdisjoint(parts) or parts[-1].startswith("test_"):
            continue
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError, ValueError):
            continue
        for docstring in _docstrings(tree):
            yield docstring, "/".join(parts)


def clean(sentence: str) -> str:
    """A sentence without markup, links and the libraries' names, on one line."""
    for pattern, replacement in MARKUP:
        sentence = pattern.sub(replacement, sentence)
    return " ".join(OWN_NAMES.sub(" ", sentence).split())


def _docstrings(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            docstring = ast.get_docstring(node)
            if docstring:
                yield docstring


def _key(text: str) -> str:
    text = re.sub(r"\b\w*[a-z][A-Z]\w*\b", " ", text)
    return " ".join(re.findall(r"[a-z]+", text.lower()))
