"""What every split must hold: a label, text or image that is none is refused with its row, and never becomes a number.

`where` names the split in messages.
"""

from collections.abc import Iterator, Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np

from hies.errors import HiesError

SHOWN = 60  # characters of a value in a message


def check_columns(inputs: Mapping[str, Any], rows: int, where: str, kinds: tuple[type, ...]) -> None:
    """Refuses columns that are not as long as the labels, and cells that hold anything but `kinds` (`image`: bytes)."""
    for name, column in inputs.items():
        if len(column) != rows:
            raise HiesError(f"The column {name!r} of {where} has {len(column)} rows, but there are {rows} labels.")
        if isinstance(column, np.ndarray) and column.dtype.kind in "biuf" and (column.ndim > 1 or Real in kinds):
            finite = np.isfinite(column).all(axis=tuple(range(1, column.ndim)))
            if not finite.all():
                raise HiesError(f"Row {int(np.argmin(finite))} of {where} has values in {name!r} that are no numbers.")
        else:
            check_cells(name, column, where, (bytes,) if name == "image" else kinds)


def check_cells(name: str, column: Sequence[Any], where: str, kinds: tuple[type, ...]) -> None:
    """Refuses None, NaN, empty bytes and whatever is none of `kinds`, in the cells of a column or in lists in them."""
    for row, cell in enumerate(column):
        for value in values(cell):
            if not isinstance(value, kinds) or value != value or value == b"":
                expected = "bytes of an image file" if kinds == (bytes,) else "text"
                raise HiesError(f"Row {row} of {where} has {shown(value)} in {name!r}, where {expected} should be.")


def class_labels(labels: Any, classes: int, where: str) -> np.ndarray:
    """Returns labels that are the numbers of classes, int64 [examples]; refuses any other."""
    numbers = _numbers(labels, where)
    fits = (numbers >= 0) & (numbers < classes) & (numbers == np.floor(numbers))  # False for NaN
    _check(labels, fits, where, f"its classes go from 0 to {classes - 1}")
    return numbers.astype(np.int64)


def score_labels(labels: Any, limits: tuple[float, float], where: str) -> np.ndarray:
    """Returns labels that are finite scores within limits, float32 [examples]; refuses any other."""
    low, high = limits
    numbers = _numbers(labels, where)
    fits = np.isfinite(numbers) & (numbers >= low) & (numbers <= high)
    _check(labels, fits, where, f"scores are {f'from {low:g} to {high:g}' if np.isfinite(limits).all() else 'finite'}")
    return numbers.astype(np.float32)


def option_labels(labels: Any, options: Sequence[Sequence[Any]], where: str) -> np.ndarray:
    """Returns labels that are the numbers of right options, int64 [examples]; `options` are those of each example."""
    numbers, counts = _numbers(labels, where), np.array([len(each) for each in options])
    fits = (numbers >= 0) & (numbers < counts) & (numbers == np.floor(numbers))
    _check(labels, fits, where, f"there are {counts[np.argmin(fits)] if len(fits) else 0} options")
    return numbers.astype(np.int64)


def text_labels(labels: Any, where: str) -> np.ndarray:
    """Returns labels that are texts with something in them, [examples]; refuses any other."""
    if not isinstance(labels, list | tuple | np.ndarray):
        raise HiesError(f"The labels of {where} are {shown(labels)}, not one for each example.")
    _check(labels, np.array([isinstance(one, str) and one != "" for one in labels], bool), where, "answers are texts")
    return np.asarray(labels, dtype=str)


def _numbers(labels: Any, where: str) -> np.ndarray:
    """Returns labels as float64 [examples], NaN for what is no number."""
    try:
        values = np.asarray(labels)
    except ValueError:  # lists that are not equally long
        row = next(row for row, one in enumerate(labels) if isinstance(one, list | tuple | np.ndarray))
        raise HiesError(f"Row {row} of {where} has the label {shown(labels[row])}, not one number.") from None
    if values.ndim != 1:
        raise HiesError(f"The labels of {where} have the shape {values.shape}, not one for each example.")
    if values.dtype.kind in "biuf":
        return values.astype(np.float64)
    return np.array([_number(value) for value in values], np.float64)


def _number(value: Any) -> float:
    try:
        return float(value) if isinstance(value, Real) else np.nan
    except OverflowError:
        return np.inf


def _check(labels: Any, fits: np.ndarray, where: str, expected: str) -> None:
    if not fits.all():
        row = int(np.argmin(fits))
        remedy = "leave out rows without a label, or give a split that has labels"
        raise HiesError(f"Row {row} of {where} has the label {shown(labels[row])}, but {expected}; {remedy}.")


def plain_label(name: str) -> str:
    """Returns the name of a class as it is compared with others."""
    return name.strip().lower().replace("_", " ")


def are_unnamed(outputs: Sequence[str]) -> bool:
    """Returns whether a classifier's outputs have no names but those that transformers gives: LABEL_0, LABEL_1, ..."""
    return set(map(plain_label, outputs)) == {f"label {i}" for i in range(len(outputs))}


def values(cell: Any) -> Iterator[Any]:
    """Yields what a cell holds: itself, or what is in a list, however deep."""
    if isinstance(cell, Mapping):
        cell = list(cell.values())
    if isinstance(cell, list | tuple | np.ndarray):
        for part in cell:
            yield from values(part)
    else:
        yield cell


def shown(value: Any) -> str:
    """Returns a value as messages have it."""
    text = repr(value.item() if isinstance(value, np.generic) else value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
