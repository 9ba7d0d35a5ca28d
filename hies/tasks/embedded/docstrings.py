"""First sentences and prose of docstrings, read from the source files of packages and never by importing them."""

import ast
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SENTENCES_VERSION = 2  # to be raised when the sentences change
SKIPPED = {
    "tests", "test", "testing", "conftest.py", "externals", "_vendor", "vendored", "_external", "array_api_compat",
    "models",  # transformers' hundreds of near-copies
}  # fmt: skip
LIBRARY_WORDS = "aten transformers datasets dataset hf pd np mpl plt"
LIBRARY_STEMS = "torch pandas numpy scipy scikit sklearn matplotlib pyplot pylab hugging"
# The name of a library would give the answer away, inside an identifier too; of a dotted name the rest stays.
LIBRARY_NAMES = re.compile(
    rf"\b(?:{'|'.join(LIBRARY_WORDS.split())}|\w*(?:{'|'.join(LIBRARY_STEMS.split())})\w*(?:[ -](?:face|learn))?)\b\.?",
    re.IGNORECASE,
)
MARKUP = [
    (re.compile(r":[\w:+-]+:`~?([^`<]*?)(?:\s*<[^`>]*>)?`"), r"\1"),  # :class:`~a.b.C`
    (re.compile(r"\[([^\]]*)\]\([^)]*\)"), r"\1"),  # [text](link)
    (re.compile(r"<[^<>]+>|https?://\S+|\.\. \w+::|>>>.*"), " "),
    (re.compile(r"[`*|~]|\[|\]"), ""),
]
FIRST_SENTENCE = re.compile(r"^[A-Z].*?[.!?](?=\s|$)", re.DOTALL)  # what has no full stop is a list or a signature
HEADING_RULE = re.compile(r"^[ \t]*[-=~^*+]{3,}[ \t]*$", re.MULTILINE)  # the line under a heading
PROSE_SHARE = 0.8  # of letters and spaces, from which a paragraph is no table, formula or program


@dataclass(frozen=True)
class Excerpt:
    """A part of a docstring.

    Attributes:
        text: on one line.
        file: where it stands, relative to the package.
    """

    text: str
    file: str


def sentences(folder: Path) -> list[Excerpt]:
    """Returns every docstring's first sentence below a package's folder, see `clean`."""
    matches = ((FIRST_SENTENCE.match(text.strip().split("\n\n")[0]), file) for text, file in docstrings(folder))
    return [Excerpt(clean(match.group()), file) for match, file in matches if match is not None]


def documents(folder: Path) -> list[Excerpt]:
    """Returns the prose of every docstring below a package's folder."""
    return [Excerpt(prose(docstring), file) for docstring, file in docstrings(folder)]


def docstrings(folder: Path) -> Iterator[tuple[str, str]]:
    """Yields every docstring below a package's folder with its file; files in the order of their names."""
    for path in sorted(folder.rglob("*.py"), key=lambda p: p.relative_to(folder).as_posix()):
        parts = path.relative_to(folder).parts
        if not SKIPPED.isdisjoint(parts) or parts[-1].startswith("test_"):
            continue
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError, ValueError):
            continue
        for node in ast.walk(tree):
            documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            if documented and (docstring := ast.get_docstring(node)):  # type: ignore[arg-type]
                yield docstring, "/".join(parts)


def clean(sentence: str) -> str:
    """Returns a sentence without markup, links and the libraries' names, on one line."""
    return _one_line(LIBRARY_NAMES.sub(" ", _plain(sentence)))


def key_of(sentence: str) -> str:
    """Returns a sentence without what near-copies differ in: case, digits, identifiers in camel case."""
    text = re.sub(r"\b\w*[a-z][A-Z]\w*\b", " ", sentence)
    return " ".join(re.findall(r"[a-z]+", text.lower()))


def prose(docstring: str) -> str:
    """Returns a docstring without examples, tables, formulas and markup, on one line."""
    paragraphs = re.split(r"\n\s*\n", HEADING_RULE.sub("", inspect.cleandoc(docstring)))
    plain = [_one_line(_plain(paragraph)) for paragraph in paragraphs if ">>>" not in paragraph]
    return " ".join(text for text in plain if _is_prose(text))


def _plain(text: str) -> str:
    for pattern, replacement in MARKUP:
        text = pattern.sub(replacement, text)
    return text


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _is_prose(text: str) -> bool:
    readable = sum(character.isalpha() or character == " " for character in text)
    return bool(text) and readable >= PROSE_SHARE * len(text)
