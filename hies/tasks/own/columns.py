"""Which columns of a table hold what: those that options name, or those whose names leave no doubt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hies.errors import ParameterError
from hies.tasks.own.files import called

LABEL_NAMES = ("label", "labels", "target", "class", "category", "sentiment", "score", "rating", "y")
PAIR_NAMES = (("sentence1", "sentence2"), ("premise", "hypothesis"), ("question1", "question2"), ("text", "text_pair"))
TEXT_NAMES = ("text", "sentence", "review", "content", "comment", "document")


@dataclass(frozen=True)
class FoundColumns:
    """The columns that are read.

    Attributes:
        texts: one column, or two of a pair; none where there are images.
        image: the column of images, or None.
        labels: the column of the label; several where each holds whether one label is given.
        guessed: those that no option names.
    """

    texts: tuple[str, ...]
    image: str | None
    labels: tuple[str, ...]
    guessed: tuple[str, ...]


def names_of(option: str, given: Any) -> tuple[str, ...]:
    """Returns the columns that an option names, one or several; none where it is null.

    Raises:
        ParameterError: it is an empty list, or names a column twice.
    """
    if given is None:
        return ()
    names = tuple(map(str, given if isinstance(given, list | tuple) else [given]))
    if len(set(names)) < max(len(names), 1):
        raise ParameterError(f"task.{option}", given, "name a column, or a list of different ones")
    return names


def find_columns(
    names: Sequence[str],
    source: str,
    texts: Sequence[str | None],
    image: str | None,
    labels: Sequence[str],
    ids: str | None,
) -> FoundColumns:
    """Returns the columns of a table.

    Args:
        names: of all its columns.
        source: what it was read from.
        texts: what `task.text` and `task.text_pair` say.
        image: what `task.image` says.
        labels: what `task.label` says; nothing where it is to be guessed.
        ids: what `task.id` says; `id`, its default, need not be there.

    Raises:
        ParameterError: an option names no column, or that of another option, or a column cannot be guessed.
    """
    named: dict[str, Sequence[str | None]] = {
        "text": texts[:1],
        "text_pair": texts[1:],
        "image": [image],
        "label": labels,
    }
    _check_apart(named)
    named |= {} if ids == "id" else {"id": [ids]}
    for option, given in named.items():
        for name in given:
            if name is not None and name not in names:
                raise ParameterError(f"task.{option}", name, there_are(names, source))
    chosen = tuple(name for name in texts if name)
    free = [name for name in names if name not in {*chosen, image, *labels, ids}]
    label = tuple(labels) or tuple(_named(LABEL_NAMES, free)[:1])
    free = [name for name in free if name not in label]
    if not chosen and image is None:
        pairs = (found for pair in PAIR_NAMES if len(found := _named(pair, free)) == 2)
        chosen = tuple(next(pairs, _named(TEXT_NAMES, free)[:1])) or (tuple(free) if len(free) == 1 and label else ())
    free = [name for name in free if name not in chosen]
    if not label and len(free) == 1 and (chosen or image):
        label = (free[0],)
    for option, is_there in (("text", bool(chosen or image)), ("label", bool(label))):
        if not is_there:
            raise ParameterError(f"task.{option}", None, f"{there_are(names, source)}; name the one of the {option}s")
    given_names = {*texts, *labels}
    return FoundColumns(chosen, image, label, tuple(name for name in (*chosen, *label) if name not in given_names))


def _check_apart(named: Mapping[str, Sequence[str | None]]) -> None:
    """Raises ParameterError where two options name one column, or a second text has no first one."""
    seen: dict[str, str] = {}
    for option, given in named.items():
        for name in filter(None, given):
            if name in seen:
                raise ParameterError(f"task.{option}", name, f"this is task.{seen[name]} already; name another column")
            seen[name] = option
    texts, pairs, images = ([*filter(None, named[option])] for option in ("text", "text_pair", "image"))
    if pairs and not texts:
        raise ParameterError("task.text", None, f"name the column of the texts that those in {pairs[0]!r} belong to")
    if images and texts:
        raise ParameterError("task.text", texts[0], "there are images (task.image); name one of the two")


def _named(wanted: Sequence[str], names: Sequence[str]) -> list[str]:
    """Returns the columns that have the wanted names, in their order; upper case counts as lower."""
    by_name = {name.lower(): name for name in reversed(names)}
    return [by_name[name] for name in wanted if name in by_name]


def there_are(names: Sequence[str], source: str) -> str:
    """Returns the columns of a source, for messages."""
    return f"{called(source)} has the columns {', '.join(map(str, names))}"
