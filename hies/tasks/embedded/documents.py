"""Prose of the docstrings of installed packages, read from their source files and never by importing them."""

import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hies.tasks.embedded.docstrings import MARKUP, docstrings

RULE = re.compile(r"^[ \t]*[-=~^*+]{3,}[ \t]*$", re.MULTILINE)  # the line under a heading
PROSE = 0.8  # share of letters and spaces from which a paragraph is no table, formula or program


@dataclass(frozen=True)
class Document:
    """The prose of one docstring on one line. file: where it stands, relative to the package."""

    text: str
    file: str


def documents(folder: Path) -> Iterator[Document]:
    """The prose of every docstring below a package's folder, files in the order of their names."""
    for docstring, file in docstrings(folder):
        yield Document(prose(docstring), file)


def prose(docstring: str) -> str:
    """A docstring without examples, tables, formulas and markup, on one line."""
    paragraphs = re.split(r"\n\s*\n", RULE.sub("", inspect.cleandoc(docstring)))
    plain = [_plain(paragraph) for paragraph in paragraphs if ">>>" not in paragraph]
    return " ".join(text for text in plain if _is_prose(text))


def _plain(paragraph: str) -> str:
    for pattern, replacement in MARKUP:
        paragraph = pattern.sub(replacement, paragraph)
    return " ".join(paragraph.split())


def _is_prose(text: str) -> bool:
    read = sum(character.isalpha() or character == " " for character in text)
    return bool(text) and read >= PROSE * len(text)
