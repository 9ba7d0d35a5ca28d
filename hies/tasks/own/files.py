"""Rows of files and of Hub data sets that options name; what cannot be read is said with file, row and column.

Rows are counted from 1, a header is none of them. Every cell of a CSV file is a text here.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hies.errors import HiesError, ParameterError, brief
from hies.tasks import hub
from hies.tasks.checks import shown
from hies.tasks.own.quotes import check_quotes

if TYPE_CHECKING:
    import pandas as pd

SEPARATORS = {".csv": ",", ".tsv": "\t"}
LINES = (".jsonl", ".ndjson", ".json")
TABLES = (*SEPARATORS, *LINES, ".parquet")
FILE_ENDINGS = f"{', '.join(TABLES[:-1])} or {TABLES[-1]}"
EMPTY_CELLS = ("", "nan", "null")  # what tables write where there is nothing
MOST_CHARACTERS = 1_000_000  # characters of a text: several hundred times as many as models read


def bad_cell(source: str, row: int, column: str, problem: str, remedy: str) -> HiesError:
    """Returns the error of a cell; `row` counts from 0."""
    return HiesError(f"{called(source)}, row {row + 1}, column {column!r}: {problem}; {remedy}.")


def called(source: str) -> str:
    """Returns what messages call a source: a file without its folder, or the data set."""
    return Path(source).name if is_file(source) else source


def is_file(source: str) -> bool:
    """Returns whether an option names a file, there or not, and no data set of the Hub."""
    return Path(source).suffix.lower() in TABLES or Path(source).exists()


def state_of(source: str | None) -> tuple[int, int] | None:
    """Returns what changes when a file is written; None for what is no file."""
    if source is None or not Path(source).is_file():
        return None
    state = Path(source).stat()
    return state.st_mtime_ns, state.st_size


def read_rows(option: str, source: str, encoding: str, separator: str | None, data_root: Path | None) -> pd.DataFrame:
    """Returns the rows of a file or of a split of a data set, at least one; not to be changed.

    Args:
        option: names the source, without its group.
        source: a file in one of the formats `TABLES`; or a data set as OWNER/NAME:SPLIT, or OWNER/NAME/CONFIG:SPLIT.
        encoding: of a CSV file, or one of JSON lines.
        separator: of the fields of a CSV file; None: by its ending.
        data_root: the folder of local copies of data sets.

    Raises:
        HiesError: it is not there, or cannot be read whole.
    """
    if separator is not None and (len(separator) != 1 or separator in '"\r\n'):
        raise ParameterError("task.separator", separator, "give a single character, such as ';'")
    rows = _read(option, source, state_of(source), encoding, separator, data_root)
    if twice := sorted({str(name) for name in rows.columns[rows.columns.duplicated()]}):
        raise HiesError(f"{called(source)} has two columns with the name {twice[0]!r}; rename one.")
    if rows.empty:
        raise HiesError(f"{called(source)} has no rows; task.{option} needs a file with examples.")
    return rows


def read_text(option: str, source: str, encoding: str) -> str:
    """Returns what is in a text file; raises HiesError where it is not there, is empty, or is in another encoding."""
    text = _decoded(_bytes(option, source), source, encoding)
    if not text.strip():
        raise HiesError(f"{Path(source).name} is empty; task.{option} needs a file with text.")
    return text


@lru_cache(maxsize=8)
def _read(
    option: str, source: str, state: Any, encoding: str, separator: str | None, data_root: Path | None
) -> pd.DataFrame:
    import pandas as pd

    if not is_file(source):
        return _hub_rows(option, source, data_root)
    ending = Path(source).suffix.lower()
    if ending not in TABLES:
        raise ParameterError(f"task.{option}", source, f"give a file that ends in {FILE_ENDINGS}")
    content = _bytes(option, source)
    if ending == ".parquet":
        try:
            return pd.read_parquet(io.BytesIO(content))
        except Exception as error:  # pyarrow raises errors of many kinds for damaged bytes
            raise HiesError(f"{called(source)} cannot be read as parquet ({brief(error)}); write it anew.") from error
    text = _decoded(content, source, encoding)
    if ending in LINES:
        return pd.DataFrame(_json_rows(text, source), dtype=object)
    return _csv_rows(text, source, separator, SEPARATORS[ending])


def _bytes(option: str, source: str) -> bytes:
    path = Path(source)
    if not path.is_file():
        what = "it is a folder, give a file in it" if path.is_dir() else "there is no such file"
        raise ParameterError(f"task.{option}", source, f"{what} (paths count from {Path.cwd()})")
    if not (content := path.read_bytes()):
        raise HiesError(f"{path.name} is empty; task.{option} needs a file with examples.")
    return content


def _decoded(content: bytes, source: str, encoding: str) -> str:
    try:
        wide = codecs.lookup(encoding).name.startswith(("utf-16", "utf-32"))
        if wide and b"\0" not in content:  # of other bytes it makes other texts, mostly without an error
            raise UnicodeError
        return content.decode(encoding).removeprefix("\ufeff")
    except LookupError:
        raise ParameterError("task.encoding", encoding, "Python knows none of this name; give latin-1, say") from None
    except UnicodeError as error:
        start = getattr(error, "start", 0)
        line, column = content.count(b"\n", 0, start) + 1, start - content.rfind(b"\n", 0, start)
        guess = "utf-16" if content[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "latin-1"
        raise HiesError(
            f"{Path(source).name}, line {line}, byte {column}: it is not in {encoding}; save it in UTF-8, or name its "
            f"encoding, as in task.encoding={guess}."
        ) from None


def _json_rows(text: str, source: str) -> list[dict[str, Any]]:
    rows = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            if "\\u" in line:
                json.dumps(row, ensure_ascii=False).encode()  # no tokenizer takes half of a character
        except (ValueError, RecursionError) as error:  # what is nested too deep for Python
            raise HiesError(f"{called(source)}, line {number}: it is no JSON ({brief(error)}); mend it.") from None
        if not isinstance(row, dict):
            raise HiesError(f"{called(source)}, line {number}: {shown(row)} is no object such as {{'text': ...}}.")
        rows.append(row)
    return rows


def _csv_rows(text: str, source: str, separator: str | None, usual: str) -> pd.DataFrame:
    import pyarrow as pa
    from pyarrow import csv as arrow

    chosen = separator or usual
    names = _header(text, source, chosen)
    others = (one for one in ";\t|," if one != chosen and one in text[:1000])
    if len(names) < 2 and (other := next(others, None)):
        give = "call the file FILE.tsv" if other == "\t" else f"give task.separator='\"{other}\"'"
        give = "leave task.separator out" if other == usual else give
        raise HiesError(
            f"{called(source)}, line 1: there is one column, {shown(names[0])}, whose fields seem to be parted "
            f"by {other!r}; {give}."
        )
    content = text.encode()
    wrong: list[Any] = []

    def note(row: Any) -> str:
        wrong.append(row)
        return "error"

    try:
        table = arrow.read_csv(
            io.BytesIO(content),
            arrow.ReadOptions(use_threads=False, block_size=len(content) + 1),
            arrow.ParseOptions(
                delimiter=chosen,
                newlines_in_values=True,
                invalid_row_handler=note,
            ),
            arrow.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False),
        )
    except (pa.ArrowException, ValueError) as error:
        if not wrong:
            raise HiesError(f"{called(source)} cannot be read as a table ({brief(error)}); mend it.") from error
        check_quotes(text, chosen, None, called(source))  # what closes in a wrong place makes other rows wrong
        row = wrong[0]
        more = row.actual_columns > row.expected_columns
        mend = f"put a text that holds {chosen!r} in quotes" if more else "fill in what is missing, or close a quote"
        raise HiesError(
            f"{called(source)}, row {row.number - 1}: it has {row.actual_columns} "
            f"field{'s'[: row.actual_columns > 1]}, but there are {row.expected_columns} columns, "
            f"{', '.join(names)[:80]}; {mend}."
        ) from None
    rows = table.to_pandas()
    check_quotes(text, chosen, rows, called(source))
    return rows


def _header(text: str, source: str, separator: str) -> list[str]:
    """Returns the names of the columns of a CSV file; none where it is blank."""
    try:
        return next(filter(None, csv.reader(io.StringIO(text, newline=""), delimiter=separator)), [])
    except csv.Error as error:  # a field of more than 131,072 characters
        raise HiesError(
            f"{called(source)}, line 1: the header cannot be read ({brief(error)}); name the columns there, or close a "
            "quote."
        ) from None


def _hub_rows(option: str, source: str, data_root: Path | None) -> pd.DataFrame:
    place, _, split = source.partition(":")
    owner, _, rest = place.partition("/")
    name, _, config = rest.partition("/")
    if not owner or not name or source.startswith(("/", ".", "~")):
        expected = (
            f"there is no such file; give one that ends in {FILE_ENDINGS}, or a data set of the Hub as OWNER/NAME:SPLIT"
        )
        raise ParameterError(f"task.{option}", source, expected)
    frames = hub.frames(f"{owner}/{name}", config or None, data_root)
    if (split := split or ("train" if option == "train" else "")) not in frames:
        example = f"{place}:{next(iter(frames))}"
        raise ParameterError(f"task.{option}", source, f"it has the splits {', '.join(frames)}, as in {example}")
    return frames[split]
