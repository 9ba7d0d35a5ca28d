"""One HTML page of leaderboards and figures, which asks no server for anything: `python -m analysis leaderboard`."""

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from analysis.registry import entries
from analysis.text.labels import model_name, task_name
from hies.errors import printable

HERE = Path(__file__).parent
FILTERED = "removed"  # the column of which a reader chooses a value
PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Section:
    """A leaderboard.

    Attributes:
        title: of which rows.
        shown: its texts.
        caption: what they were made from.
        missing: the jobs that have no rows, with their commands.
    """

    title: str
    shown: pd.DataFrame
    caption: str
    missing: list[str] = field(default_factory=list)


class Picture(NamedTuple):
    """A drawn figure: its kind, and of what it is; the address holds the picture itself."""

    kind: str
    title: str
    address: str


def write_page(path: Path, title: str, sections: Sequence[Section], folders: Sequence[Path]) -> Path:
    """Writes the page with these leaderboards and every PNG below `figures` of these folders; returns its path."""
    pictures = [
        _picture(png) for folder in folders for png in sorted((folder / "figures").glob("*.png")) if _is_png(png)
    ]
    kinds = sorted({picture.kind for picture in pictures})
    known = entries()
    figures = [
        (kind, known[kind].about if kind in known else "", [one for one in pictures if one.kind == kind])
        for kind in kinds
    ]
    style, script = ((HERE / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    # What is in rows is anybody's text: it is escaped, and the page allows no script and no style but its own.
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    text = environment.get_template("page.html").render(
        title=title, sections=sections, figures=figures, filtered=FILTERED, printable=printable,
        style=style, script=script, style_hash=_hash(style), script_hash=_hash(script),
    )  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.partial")  # no half of a page
    try:
        new.write_text(text, encoding="utf-8")
        return new.replace(path)
    finally:
        new.unlink(missing_ok=True)


def _is_png(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(PNG)) == PNG


def _picture(path: Path) -> Picture:
    """A file's name is that of the figure, with its measures, and what it is of, see `Entry.write`."""
    first, *parts = (unquote(part) for part in path.stem.split("__"))
    kind = max((name for name in entries() if f"{first}_".startswith(f"{name}_")), key=len, default=first)
    measures = first[len(kind) :].strip("_")
    per = entries()[kind].per if kind in entries() else ()
    names = {"model": model_name, "task": task_name}
    words = [names.get(column, str)(part) for column, part in zip([*per, *parts], parts, strict=False)]
    data = base64.b64encode(path.read_bytes()).decode()
    title = ", ".join([*words, *([measures] if measures else [])])
    return Picture(kind, printable(title or kind), f"data:image/png;base64,{data}")


def _hash(text: str) -> str:
    """What a content security policy calls a script or a style by."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
