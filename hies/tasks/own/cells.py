"""Cells of tables as inputs and labels; a cell that holds neither is refused with file, row and column."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hies.tasks.checks import shown
from hies.tasks.own.files import EMPTY_CELLS, MOST_CHARACTERS, bad_cell
from hies.tasks.own.labels import number_of

if TYPE_CHECKING:
    import pandas as pd

COMMON = 10  # examples of a set of labels whose share every split keeps
PART = "|"  # between the labels of a cell that has several
MEND = "mend the cell, or leave the row out"
NAMES = (
    "list the labels that hold by name, each once; 0 and 1 for each label go into columns, as task.label=[toxic,rude]"
)
_ITEM = r"""(?:[0-9.]+|"[^"]*"|'[^']*'|[Tt]rue|[Ff]alse)"""
_WRITTEN_LIST = re.compile(rf"\[\s*(?:{_ITEM}(?:[\s,;]+{_ITEM})*)?\s*\]|[01](?:[\s,;]+[01])+")  # as CSV files have them


def inputs(rows: pd.DataFrame, texts: Sequence[str], image: str | None, source: str) -> dict[str, list[Any]]:
    """Returns the columns of a split: `text` and perhaps `text_pair`, or `image` as encoded files."""
    if image is not None:
        return {"image": [_file(cell, row, image, source) for row, cell in enumerate(rows[image].tolist())]}
    return {name: text_column(rows, column, source) for name, column in zip(("text", "text_pair"), texts, strict=False)}


def text_column(rows: pd.DataFrame, column: str, source: str) -> list[str]:
    """Returns a column whose cells all hold a text."""
    for row, cell in enumerate(cells := rows[column].tolist()):
        check_text(cell, row, column, source)
    return cells


def check_text(cell: Any, row: int, column: str, source: str) -> None:
    """Raises HiesError for a cell that holds no text, or one that is too long."""
    if is_missing(cell):
        raise bad_cell(source, row, column, "there is no text", MEND)
    if not isinstance(cell, str):
        raise bad_cell(source, row, column, f"{shown(cell)} is no text", MEND)
    if len(cell) > MOST_CHARACTERS:
        what = f"the text has {len(cell):,} characters, and at most {MOST_CHARACTERS:,} are read"
        raise bad_cell(source, row, column, what, "cut it")


def classes(rows: pd.DataFrame, columns: Sequence[str], source: str) -> list[str]:
    """Returns the label of each row."""
    (column,) = columns
    return [_label(cell, row, column, source) for row, cell in enumerate(rows[column].tolist())]


def label_sets(rows: pd.DataFrame, columns: Sequence[str], source: str) -> list[frozenset[str]]:
    """Returns the labels of each row: of one column what it lists, of several the names of those at 1."""
    if len(columns) == 1:
        return [_labels_of(cell, row, columns[0], source) for row, cell in enumerate(rows[columns[0]].tolist())]
    held: list[set[str]] = [set() for _ in range(len(rows))]
    for column in columns:
        for row, cell in enumerate(rows[column].tolist()):
            text = "" if is_missing(cell) else _label(cell, row, column, source).lower()
            if (text := number_of(text) or text) in ("1", "true"):
                held[row].add(column)
            elif text not in ("0", "false"):
                raise bad_cell(source, row, column, f"{shown(cell)} is neither 0 nor 1", MEND)
    return [frozenset(one) for one in held]


def check_names(columns: Mapping[str, Sequence[Any]], sources: Mapping[str, str], column: str) -> None:
    """Raises HiesError for lists that give 0 or 1 for each label, and not the names of those that hold.

    Args:
        columns: part -> the cells of the column.
        sources: part -> what it was read from.
        column: its name.
    """
    lists = [_listed(cell) for found in columns.values() for cell in found]
    lengths = {len(one) if isinstance(one, list | tuple) else 0 for one in lists}
    if len(lengths) == 1 and lengths != {0} and all(_is_bit(one) for each in lists for one in each):
        (part, found), *_ = columns.items()
        what = (
            f"{shown(_listed(found[0]))} is 0 and 1 alone, as in all rows, which may be names or say which labels hold"
        )
        raise bad_cell(sources[part], 0, column, what, f"{NAMES}; names that are numbers go in quotes")


def scores(rows: pd.DataFrame, column: str, source: str, scale: Sequence[float]) -> list[float]:
    """Returns the score of each row, which lies on the scale."""
    found = []
    for row, cell in enumerate(rows[column].tolist()):
        try:
            found.append(float("nan" if "_" in str(cell) else cell))  # Python takes 1_0 for 10
        except (TypeError, ValueError, OverflowError):
            found.append(float("nan"))
        if not scale[0] <= found[-1] <= scale[1]:
            what = f"{shown(cell)} is no score from {scale[0]:g} to {scale[1]:g}"
            raise bad_cell(source, row, column, what, f"{MEND}, or give another task.scale")
    return found


def check_ids(rows: pd.DataFrame, column: str | None, source: str) -> None:
    """Raises HiesError where two rows have the same id."""
    if column not in rows.columns:
        return
    first: dict[str, int] = {}
    for row, cell in enumerate(map(repr, rows[column].tolist())):
        if (before := first.setdefault(cell, row)) != row:
            what = f"row {before + 1} has the same id, {cell}"
            raise bad_cell(source, row, str(column), what, "mend one, or give task.id=null if ids may repeat")


def common_sets(texts: np.ndarray) -> np.ndarray:
    """Returns the texts of 0 and 1 that many examples have, for splits to keep their shares; "" for all others."""
    sets, place, counts = np.unique(texts, return_inverse=True, return_counts=True)
    often = counts >= COMMON
    sets = np.where(often, sets, "")
    if 0 < counts[~often].sum() < COMMON:  # too few for a group of their own
        sets[~often] = sets[counts.argmax()]
    return sets[place]


def bits_of(texts: np.ndarray) -> np.ndarray:
    """Returns texts of 0 and 1, [examples], as uint8 [examples, labels]."""
    return np.array([[character == "1" for character in text] for text in texts.tolist()], dtype=np.uint8)


def text_of_bits(bits: np.ndarray) -> np.ndarray:
    """Returns 0 and 1, [examples, labels], as a text for each example."""
    return np.array(["".join(map(str, row)) for row in bits.tolist()], dtype=f"<U{max(bits.shape[1], 1)}")


def _label(cell: Any, row: int, column: str, source: str) -> str:
    """Returns a label as it stands, without blanks around it; of a float that is whole no point."""
    if is_missing(cell):
        raise bad_cell(source, row, column, "there is no label", MEND)
    if isinstance(cell, str):
        return cell.strip()
    if not isinstance(cell, int | float):
        raise bad_cell(source, row, column, f"{shown(cell)} is no label", "for several give task.kind=multi_label")
    if cell in (inf, -inf):
        raise bad_cell(source, row, column, f"{shown(cell)} is no class", MEND)
    return str(int(cell) if isinstance(cell, float) and cell.is_integer() else cell)


def _labels_of(cell: Any, row: int, column: str, source: str) -> frozenset[str]:
    several = _listed(cell)
    if isinstance(several, str):
        if _WRITTEN_LIST.fullmatch(several.strip()):
            what = f"{shown(several)} is a list that was written as a text"
            raise bad_cell(source, row, column, what, f"part names by {PART!r}, or save lists as JSON lines or parquet")
        several = several.split(PART) if several.strip() else []  # none of the labels
    if not isinstance(several, list | tuple):
        raise bad_cell(source, row, column, f"{shown(cell)} is no list of labels", f"part labels by {PART!r}")
    labels = [_label(one, row, column, source) for one in several]
    if twice := [one for place, one in enumerate(labels) if one in labels[:place]]:
        raise bad_cell(source, row, column, f"{shown(several)} has {shown(twice[0])} twice", NAMES)
    return frozenset(labels)


def _listed(cell: Any) -> Any:
    return cell.tolist() if isinstance(cell, np.ndarray) else cell


def _is_bit(one: Any) -> bool:
    return isinstance(one, int | float) and one in (0, 1)


def is_missing(cell: Any) -> bool:
    """Returns whether a cell is empty: nothing, NaN, or what tables write for it."""
    import pandas as pd

    if isinstance(cell, str):
        return cell.strip().lower() in EMPTY_CELLS
    return np.ndim(cell) == 0 and bool(pd.isna(cell))


def _file(cell: Any, row: int, column: str, source: str) -> bytes:
    """Returns the encoded image of a cell: its bytes, or those of the file that it names."""
    found = cell.get("bytes") if isinstance(cell, dict) else cell
    if isinstance(found, str) and not is_missing(found):
        path = Path(source).parent / found
        try:
            found = path.read_bytes()
        except OSError as error:
            raise bad_cell(source, row, column, f"{path} cannot be read ({error.strerror})", MEND) from None
    if not isinstance(found, bytes) or not found:
        raise bad_cell(source, row, column, "there is no image", MEND)
    return found
