"""Labels as they stand in files: the classes that they name, and their places among names that are there already."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hies.errors import HiesError, ParameterError
from hies.tasks.checks import plain_label, shown
from hies.tasks.own.files import bad_cell, called

LONGEST_NUMBER = 300  # characters: Python takes no number from a text of 4,301, and floats end at 309 digits
SHOWN_LABELS = 8
_NUMBER = re.compile(r"[+-]?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")


def number_of(label: str) -> str | None:
    """Returns a whole number as `1` has it, however it is written (`+1`, `1.0`, `1e0`); None for all other texts.

    `01`, `1_0` and `infinity`, which Python takes for numbers, are texts.
    """
    if not _NUMBER.fullmatch(label) or len(label) > LONGEST_NUMBER:
        return None
    if "e" in label.lower():
        return str(int(number)) if (number := float(label)).is_integer() else None
    whole, _, fraction = label.partition(".")
    return None if fraction.strip("0") else str(int(whole if whole.strip("+-") else 0))  # a float has 53 bits alone


def is_score(label: str) -> bool:
    """Returns True for a number that is not whole, or out of all bounds."""
    return _NUMBER.fullmatch(label) is not None and number_of(label) is None


class Names:
    """Names of classes or of outputs, among which labels are looked up.

    The name that a label is, letter by letter, comes first; then the one that it is without upper case and underscores;
    then that of the same number.
    """

    _FORMS: tuple[Callable[[str], str | None], ...] = (str.strip, plain_label, number_of)

    def __init__(self, names: Sequence[str]) -> None:
        self._places: list[dict[str, int | None]] = [{} for _ in self._FORMS]
        for form, places in zip(self._FORMS, self._places, strict=True):
            for place, name in enumerate(names):
                if (key := form(name)) is not None:
                    places[key] = None if key in places else place

    def place(self, label: str) -> int | None:
        """Returns the place of the name that a label stands for; None where it is none of them, or could be two."""
        for form, places in zip(self._FORMS, self._places, strict=True):
            if (key := form(label)) is not None and key in places:
                return places[key]
        return None


def labels_in(cell: Any) -> Sequence[str]:
    """Returns the labels of a row, sorted: one, or those of a set."""
    return (cell,) if isinstance(cell, str) else sorted(cell)


def classes_of(labels: Mapping[str, Sequence[Any]], sources: Mapping[str, str], column: str) -> tuple[str, ...]:
    """Returns all labels once, sorted: numbers by their size.

    Args:
        labels: part -> the label of each row, or a set of them.
        sources: part -> what it was read from.
        column: that of the labels, for messages.

    Raises:
        HiesError: a label is a score, or two differ in upper case, underscores or the way that a number is written
            alone, so that nobody knows if they are one class or two.
    """
    first: dict[str, tuple[str, str, int]] = {}  # what labels are compared by -> the label, its part and row
    seen: set[str] = set()
    for part, found in labels.items():
        for row, cell in enumerate(found):
            for label in labels_in(cell):
                if label in seen:
                    continue
                seen.add(label)
                check_class(label, sources[part], row, column)
                other, where, line = first.setdefault(number_of(label) or plain_label(label), (label, part, row))
                if other != label:
                    what = f"{shown(label)} may be {shown(other)} of {called(sources[where])}, row {line + 1}"
                    remedy = "write one class in one way, or name all of them as task.classes"
                    raise bad_cell(sources[part], row, column, what, remedy)
    numbers = all(key.isdecimal() and len(key) <= LONGEST_NUMBER for key in first)
    names = {key: number_of(label) or label for key, (label, _, _) in first.items()}
    return tuple(names[key] for key in sorted(first, key=lambda key: (int(key) if numbers else 0, key)))


def check_class(label: str, source: str, row: int, column: str) -> None:
    """Raises HiesError for a label that is a score."""
    if is_score(label):
        raise bad_cell(source, row, column, f"{shown(label)} is no class", "for scores give task.kind=regression")


def check_known(
    labels: Mapping[str, Sequence[Any]],
    sources: Mapping[str, str],
    column: str,
    classes: Sequence[str],
    outputs: Sequence[str],
) -> None:
    """Raises HiesError for the first label that is none of the classes, which messages call `outputs`."""
    names = Names(classes)
    unknown = {label for found in labels.values() for cell in found for label in labels_in(cell)}
    unknown = {label for label in unknown if names.place(label) is None}
    for part, found in labels.items() if unknown else ():
        for row, cell in enumerate(found):
            for label in filter(unknown.__contains__, labels_in(cell)):
                check_class(label, sources[part], row, column)
                what = f"the label {shown(label)} is none of the {len(outputs)} of the model ({listed(outputs)})"
                counted = "; numbers count from 0" if label.isdecimal() else ""
                remedy = f"mend it, or name what the outputs stand for as task.classes{counted}"
                raise bad_cell(sources[part], row, column, what, remedy)


def check_start(labels: Sequence[str], outputs: int) -> None:
    """Raises ParameterError for whole numbers without 0 that would be right from 0 and from 1."""
    least, most = min(map(int, labels)), max(map(int, labels))
    if least > 0 and most < outputs:
        what = f"labels are {least} to {most} of {outputs}, which may count from 0 or from 1"
        raise ParameterError("task.classes", None, f"{what}; give [0,1,...] or [1,2,...] in full")


def check_order(classes: Sequence[str], outputs: Sequence[str]) -> None:
    """Raises ParameterError for classes that are names of the model's outputs in another order.

    Some numbers may be: classes may count from 0 where the names of the outputs count from 1.
    """
    names = Names(outputs)
    places = [names.place(one) for one in classes]
    moved = [name for i, name in enumerate(classes) if places[i] not in (None, i)]
    if moved and (None not in places or any(number_of(name) is None for name in moved)):
        expected = f"the model calls its outputs {listed(outputs)}, in this order"
        remedy = "leave task.classes out, or mend id2label in the model's config.json if that is wrong"
        raise ParameterError("task.classes", list(classes), f"{expected}; {remedy}")


def all_the_same(labels: Sequence[Any], source: str, column: str) -> HiesError:
    """Returns the error of rows that all have the same label, score or set of labels."""
    several = isinstance(labels[0], frozenset)
    which = f"labels, {listed(labels_in(labels[0])) or 'none'}" if several else f"label, {shown(labels[0])}"
    what = f"all {len(labels)} rows have the same {which}"
    return HiesError(f"{called(source)}, column {column!r}: {what}; give rows of others, too.")


def warn_of_untrained(labels: Mapping[str, Sequence[Any]], sources: Mapping[str, str]) -> None:
    """Warns of labels in other parts that train has none of."""
    known = {label for cell in labels["train"] for label in labels_in(cell)}
    for part, found in labels.items():
        if new := sorted({label for cell in found for label in labels_in(cell)} - known):
            rows = sum(not known.issuperset(labels_in(cell)) for cell in found)
            warnings.warn(
                f"{rows} rows of {called(sources[part])} have labels that {called(sources['train'])} lacks, "
                f"{listed([*map(shown, new)])}: a model that is trained there never sees them; mend them, give rows "
                "of them to train on, or name all classes as task.classes.",
                stacklevel=2,
            )


def listed(names: Sequence[str]) -> str:
    """Returns the first names, for messages."""
    return ", ".join(names[:SHOWN_LABELS]) + (", ..." if len(names) > SHOWN_LABELS else "")
