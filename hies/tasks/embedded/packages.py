"""Docstrings of installed packages, read from source files and never by importing them.

The same versions give the same data on every machine.
"""

import ast
import gzip
import hashlib
import importlib.metadata
import importlib.util
import inspect
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from hies.errors import ParameterError
from hies.progress import ProgressBar

Piece = TypeVar("Piece")
DISTRIBUTIONS = {"sklearn": "scikit-learn"}  # import name -> name on the package index, where they differ


def check_libraries(libraries: Sequence[str], fewest: int) -> None:
    """Raises ParameterError where there are too few libraries, or one of them twice."""
    if len(set(libraries)) < max(fewest, len(libraries)):
        raise ParameterError("libraries", list(libraries), f"it takes at least {fewest}, each once")


def check_sizes(task: Any, *names: str) -> None:
    """Raises ParameterError where one of a task's sizes is below 1."""
    for name in names:
        if (size := getattr(task, name)) < 1:
            raise ParameterError(name, size, "it must be at least 1")


def installed_versions(libraries: Sequence[str]) -> list[list[str]]:
    """Returns each library with its installed version; raises ParameterError where one is not installed."""
    versions = []
    for library in libraries:
        try:
            versions.append([library, importlib.metadata.version(DISTRIBUTIONS.get(library, library))])
        except importlib.metadata.PackageNotFoundError:
            raise ParameterError("libraries", library, "it is not installed; pip install it") from None
    return versions


def read_packages(libraries: Sequence[str], read: Callable[[Path], list[Piece]]) -> dict[str, list[Piece]]:
    """Returns what `read` finds below the folder of each library, two of them at the same time."""
    folders = [package_folder(library) for library in libraries]
    if None in folders:
        library = libraries[folders.index(None)]
        raise ParameterError("libraries", library, "it takes names of installed packages")
    with ProcessPoolExecutor(min(2, len(folders))) as pool:
        parsed = pool.map(read, folders)
        bar = ProgressBar(parsed, "reading docstrings", len(folders), unit="package")
        return dict(zip(libraries, bar, strict=True))


def draw_split(shares: Mapping[str, float], *words: str) -> str:
    """Returns the split that these words fall into, by the share of each split; it depends on nothing else."""
    position = draw_number(*words)
    for split, share in shares.items():
        if position < share:
            return split
        position -= share
    return "report"


def draw_number(*words: str) -> float:
    """Returns a number in [0, 1) that depends on the words alone."""
    return int(hashlib.sha256("\n".join(words).encode()).hexdigest()[:12], 16) / 16**12


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON-able value, compressed; equal values give equal files."""
    path.write_bytes(gzip.compress(json.dumps(value).encode(), mtime=0))


def read_json(path: Path) -> Any:
    """Returns what `write_json` wrote."""
    return json.loads(gzip.decompress(path.read_bytes()))


def package_folder(name: str) -> Path | None:
    """Returns where an installed package lies, found without importing it; None where it is no package."""
    spec = importlib.util.find_spec(name)
    locations = None if spec is None else spec.submodule_search_locations
    return Path(next(iter(locations))) if locations else None


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
