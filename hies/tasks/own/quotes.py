"""Quotes in a CSV file that were meant as part of a text, and that join the rows between them into one."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from hies.errors import HiesError

if TYPE_CHECKING:
    import pandas as pd

_LINE_END = re.compile(r"\r\n|\r|\n")
_NUMBER = re.compile(r"[+-]?[0-9]+(?:\.[0-9]+)?")


@dataclass(frozen=True)
class _LongField:
    """A quoted field that spans lines, or that never closes.

    Attributes:
        column: its place in the row.
        lines: what is between its quotes.
        start: the place of the quote that opens it, in the text.
        end: that behind the quote that closes it.
        closes: False for a field that goes on to the end of the file.
    """

    column: int
    lines: Sequence[str]
    start: int
    end: int
    closes: bool


def check_quotes(text: str, separator: str, rows: pd.DataFrame | None, name: str) -> None:
    """Raises HiesError for a quoted field that never closes, or that seems to hold rows of the file.

    A field that spans lines is a good one (RFC 4180), unless there is text right behind the quote that closes it, or
    each of its lines has the separators that rows would have there, and one of their cells could be one of its column:
    it is a value that other rows have, or a number where all of them have numbers. Between tabs, which texts hardly
    hold, the separators suffice.

    Args:
        text: of the file.
        separator: of its fields.
        rows: as they were read, all texts; None: they could not be.
        name: what messages call the file.
    """
    columns = 0 if rows is None else len(rows.columns)

    @cache  # many texts of several lines may ask for them
    def values_of(place: int) -> tuple[set[str], bool]:
        values = set() if rows is None else set(map(str, rows.iloc[:, place]))
        return values, all(map(_NUMBER.fullmatch, values))

    tail = re.compile(rf"[^{re.escape(separator)}\r\n]*")
    for field in _long_fields(text, separator):
        behind = tail.match(text, field.end)
        if not field.closes:
            problem = "never closes"
        elif behind and behind[0].strip():
            problem = f"closes in line {_line_of(field.end, text)} with text right behind it"
        elif _holds_rows(field, separator, columns, values_of):
            problem = f"closes in line {_line_of(field.end, text)}, and what stands between looks like rows"
        else:
            continue
        raise HiesError(
            f"{name}, line {_line_of(field.start, text)}: the quote that opens a field {problem}, "
            'so rows would be lost; put a text that has quotes in quotes and double those inside, as in """so"", he '
            'said", or give JSON lines.'
        )


def _line_of(place: int, text: str) -> int:
    return 1 + len(_LINE_END.findall(text, 0, place))


def _long_fields(text: str, separator: str) -> Iterator[_LongField]:
    """Yields the fields between quotes that hold a line end or never close; a quote counts where a field begins."""
    quoted = re.compile(rf'(?:\A|[{re.escape(separator)}\r\n])"([^"]*(?:""[^"]*)*)("?)')
    last = column = 0
    for found in quoted.finditer(text):
        start, inside = found.start(1) - 1, found[1]
        row_starts = 1 + max(text.rfind("\n", last, start), text.rfind("\r", last, start))
        column = (0 if row_starts else column) + text.count(separator, row_starts or last, start)
        last = found.end()
        if not found[2] or "\n" in inside or "\r" in inside:
            yield _LongField(column, _LINE_END.split(inside), start, last, bool(found[2]))


def _holds_rows(
    field: _LongField, separator: str, columns: int, values_of: Callable[[int], tuple[set[str], bool]]
) -> bool:
    """Returns True if the lines of a field have the separators of rows, and a cell that could be one of its column.

    Args:
        field: between its quotes.
        separator: of the fields of a row.
        columns: how many there are; 0: it is not known.
        values_of: returns the values of a column, and True if all of them are numbers.
    """
    first, *between, last = field.lines
    between = [line for line in between if line]
    counts = (first.count(separator), *(line.count(separator) for line in between), last.count(separator))
    if columns < 2 or counts != (columns - 1 - field.column, *[columns - 1] * len(between), field.column):
        return False
    if separator == "\t":
        return True
    for begins, line in ((field.column, first), *((0, line) for line in between), (0, last)):
        for place, cell in enumerate(line.split(separator), start=begins):
            if cell and place != field.column:
                values, are_numbers = values_of(place)
                if cell in values or (are_numbers and _NUMBER.fullmatch(cell)):
                    return True
    return False
