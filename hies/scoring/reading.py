"""Data as batches that a model accepts, labels included: `hies.batches`."""

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor, nn

from hies.batching import Batch, padding_id
from hies.errors import HiesError, ParameterError, brief, check_choice
from hies.scoring.losses import IGNORED, is_of_transformers, taken_by

OWN_TOKENS, NO_LABELS = "tokens", "none"  # in place of a column of labels
LABEL_COLUMNS = ("labels", "label")
PADDINGS = ("longest", "max_length")


def batches(
    reader: Any,
    data: Any,
    columns: str | Sequence[str] | None = None,
    labels: str | Sequence[Any] | None = None,
    *,
    model: nn.Module | None = None,
    batch_size: int = 8,
    max_length: int | None = None,
    padding: str = "longest",
) -> "Batches":
    """Returns an iterable of dicts that a model accepts, which can be read any number of times, in the order of `data`.

    Args:
        reader: a tokenizer or image processor, or a processor that has one.
        data: a list of texts, or of dicts, or a data set whose rows are dicts (`datasets.Dataset`). A series of pandas
            is read in order, whatever its index, and so are labels.
        columns: what is read of a dict: a text, two texts (a pair), or a picture; None: the only such column.
        labels: the column of the labels, or the labels themselves, one an example; "tokens": the tokens of the text, as
            language models are trained (padding is -100); "none". None: the column "labels" or "label", or, of a list
            of texts, their tokens.
        model: that will read them: they lie on its device, without what its forward does not take, padded with its
            padding token, and labels may be the names of its classes.
        batch_size: examples of a batch; the last may have fewer.
        max_length: tokens at which texts are cut; None: what the tokenizer says.
        padding: on the right, up to the "longest" text of a batch, or to "max_length".

    Raises:
        HiesError: data of another form, a column that is not there or has to be named, no labels, a tokenizer without a
            padding token, or, while they are read, an example without text, picture or label.
    """
    for name, value in (("batch_size", batch_size), ("max_length", 1 if max_length is None else max_length)):
        if not isinstance(value, Integral) or value < 1:
            raise ParameterError(name, value, "it must be a whole number, 1 or more")
    check_choice("padding", padding, PADDINGS)
    rows = _rows(data)
    label = _label_of(rows, labels)
    names = _columns_of(rows, columns, label)
    tool = _tool_for(reader, rows[0][names[0]] if names else rows[0])
    if len(names) == 2 and not hasattr(tool, "pad_token"):
        raise ParameterError("columns", columns, "name one column of pictures")
    if batch_size > 1 and getattr(tool, "pad_token", "") is None:
        expected = "set it, as in tokenizer.pad_token = tokenizer.eos_token (padding is masked), or give batch_size=1"
        raise ParameterError("pad_token", None, expected)
    return Batches(tool, rows, names, label, model, batch_size, max_length, padding)


@dataclass(frozen=True, eq=False, repr=False)
class Batches:
    """Batches of a data set, made each time they are read.

    Attributes:
        reader: a tokenizer or image processor.
        rows: the examples, in order.
        columns: what is read of each; () where it is the example.
        labels: a column, "tokens", "none", or one label an example.
        model: that will read them, or None.
        batch_size: examples of a batch.
        max_length: tokens at which texts are cut; None: what the tokenizer says.
        padding: "longest" or "max_length".
    """

    reader: Any
    rows: Sequence[Any]
    columns: tuple[str, ...]
    labels: str | Sequence[Any]
    model: nn.Module | None
    batch_size: int
    max_length: int | None
    padding: str

    def __len__(self) -> int:
        return -(-len(self.rows) // self.batch_size)

    def __repr__(self) -> str:
        return f"Batches({len(self.rows)} examples in {len(self)} batches of up to {self.batch_size})"

    def __iter__(self) -> Iterator[Batch]:
        for start in range(0, len(self.rows), self.batch_size):
            numbers = range(start, min(start + self.batch_size, len(self.rows)))
            yield self._for_model(self._batch({i: self.rows[i] for i in numbers}))

    def _batch(self, rows: Mapping[int, Any]) -> Batch:
        parts = [[_item(row, name, i) for i, row in rows.items()] for name in self.columns] or [[*rows.values()]]
        is_text = hasattr(self.reader, "pad_token")
        for values in parts:
            for i, value in zip(rows, values, strict=True):
                if not (isinstance(value, str) if is_text else _is_picture(value)):
                    raise HiesError(
                        f"data[{i}] has {_short(value)}, where a {'text' if is_text else 'picture'} is due."
                    )
        try:
            batch = self._tokens(parts) if is_text else self._pictures(parts[0])
        except Exception as error:  # of whatever kind it is
            which = f"{min(rows)} to {max(rows)}"
            raise HiesError(f"{type(self.reader).__name__} cannot read data[{which}] ({brief(error)}).") from error
        if is_text and not (filled := batch["attention_mask"].any(dim=1)).all():
            raise HiesError(f"data[{[*rows][int((~filled).nonzero()[0])]}] has no token; leave it out.")
        if self.labels == OWN_TOKENS:
            return {**batch, "labels": batch["input_ids"].masked_fill(batch["attention_mask"] == 0, IGNORED)}
        return batch if self.labels == NO_LABELS else {**batch, "labels": self._labels(rows)}

    def _tokens(self, parts: Sequence[list[str]]) -> Batch:
        limit = self.max_length or (self.reader.model_max_length if self.reader.model_max_length < 1 << 30 else None)
        padding = self.padding if self.reader.pad_token is not None else "do_not_pad"
        # On the right: models with absolute positions count them from the left, padding included.
        options = {"padding": padding, "padding_side": "right", "truncation": limit is not None, "max_length": limit}
        return dict(self.reader(*parts, **options, return_attention_mask=True, return_tensors="pt"))

    def _pictures(self, pictures: Sequence[Any]) -> Batch:
        colour = [one.convert("RGB") if hasattr(one, "convert") else one for one in pictures]
        return dict(self.reader(images=colour, return_tensors="pt"))

    def _labels(self, rows: Mapping[int, Any]) -> Tensor:
        of: Any = self.labels
        values = [_item(row, of, i) if isinstance(of, str) else of[i] for i, row in rows.items()]
        numbers = [self._number(value, i) for i, value in zip(rows, values, strict=True)]
        try:
            labels = torch.tensor(numbers)
        except (ValueError, TypeError) as error:
            raise HiesError(f"The labels of data[{min(rows)} to {max(rows)}] are not of one form ({error}).") from error
        return labels.float() if labels.is_floating_point() else labels.long()

    def _number(self, label: Any, i: int) -> Any:
        """Returns a label as a number or a list of numbers."""
        label = label.tolist() if hasattr(label, "tolist") else label
        if isinstance(label, str):
            names: Any = getattr(getattr(self.model, "config", None), "label2id", None) or {}
            if label not in names:
                known = f"the model's are {', '.join(names)}" if names else "model= tells the numbers of names"
                raise HiesError(f"data[{i}] has the label {label!r}, which is no number; {known}.")
            return names[label]
        parts = label if isinstance(label, list | tuple) else [label]
        if not all(isinstance(part, Real) and part == part for part in parts):
            raise HiesError(f"data[{i}] has the label {_short(label)}; leave it out, or give it one.")
        return label

    def _for_model(self, batch: Batch) -> Batch:
        if self.model is None:
            return batch
        weight, token = next(self.model.parameters()), padding_id(self.model)
        names = {*inspect.signature(self.model.forward).parameters, "labels"}
        if token is not None and "attention_mask" in batch:
            batch["input_ids"] = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, token)
        if "pixel_values" in batch:
            batch["pixel_values"] = batch["pixel_values"].to(weight.dtype)
        of_any = taken_by(self.model) is None and not is_of_transformers(self.model)  # **kwargs go to one inside
        return {name: value.to(weight.device) for name, value in batch.items() if of_any or name in names}


def _rows(data: Any) -> Sequence[Any]:
    data = _by_position(data)
    if isinstance(data, str | Mapping) or not isinstance(data, Iterable):
        what = f"{type(data).__name__} of {', '.join(map(str, data))}" if isinstance(data, Mapping) else _short(data)
        raise ParameterError("data", what, "give a list of texts or of dicts, or one split of a data set")
    rows: Any = data if hasattr(data, "__len__") and hasattr(data, "__getitem__") else [*data]
    if not len(rows):
        raise HiesError("data has no example; give one at least.")
    try:
        first = rows[0]
    except (LookupError, TypeError):
        first = None
    if not isinstance(first, str | Mapping) and not _is_picture(first):
        raise ParameterError(
            "data", type(data).__name__, "its rows are texts or dicts (of a frame: to_dict('records'))"
        )
    return rows


def _by_position(values: Any) -> Any:
    """Returns what pandas holds as a list, in order: its own [i] is the row that is labelled i, wherever it stands."""
    return [*values.to_numpy()] if hasattr(values, "iloc") else values


def _label_of(rows: Sequence[Any], labels: Any) -> Any:
    """Returns where labels come from, as `Batches` has it."""
    first = rows[0]
    if labels is None:
        if isinstance(first, str):
            return OWN_TOKENS
        found = [name for name in LABEL_COLUMNS if isinstance(first, Mapping) and name in first]
        if not found:
            has = f"the columns are {', '.join(first)}; " if isinstance(first, Mapping) else ""
            expected = f"{has}name that of the labels, or give them; labels='tokens' is for language models"
            raise ParameterError("labels", None, f"{expected}, 'none' for none")
        return found[0]
    if isinstance(labels, str):
        if labels not in (OWN_TOKENS, NO_LABELS):
            _check_column("labels", labels, first)
        return labels
    labels = _by_position(labels)
    is_list = hasattr(labels, "__len__") and hasattr(labels, "__getitem__") and not isinstance(labels, Mapping)
    if not is_list or len(labels) != len(rows):
        raise ParameterError("labels", _short(labels), f"give a column, or one label for each of {len(rows)} examples")
    return [*labels]


def _columns_of(rows: Sequence[Any], columns: Any, label: Any) -> tuple[str, ...]:
    first = rows[0]
    if columns is None and not isinstance(first, Mapping):
        return ()
    if columns is None:
        kinds = {name: value for name, value in first.items() if isinstance(value, str) or _is_picture(value)}
        found = [name for name in kinds if not isinstance(label, str) or name != label]
        if len(found) != 1:
            several = f"{len(found)} of the columns {', '.join(first)} may be read" if found else "no column is a text"
            raise ParameterError("columns", None, f"{several}; name one, or two for pairs of texts")
        return (found[0],)
    names = (columns,) if isinstance(columns, str) else tuple(columns)
    if len(names) not in (1, 2):
        raise ParameterError("columns", columns, "name one column, or two for pairs of texts")
    for name in names:
        _check_column("columns", name, first)
    return names


def _check_column(parameter: str, name: Any, first: Any) -> None:
    if not isinstance(first, Mapping) or name not in first:
        known = f"the columns are {', '.join(first)}" if isinstance(first, Mapping) else "the rows have no columns"
        raise ParameterError(parameter, name, known)


def _tool_for(reader: Any, value: Any) -> Any:
    """Returns the part of a processor that reads texts or pictures, whichever the value is."""
    if isinstance(value, str):
        tool, kind = reader if hasattr(reader, "pad_token") else getattr(reader, "tokenizer", None), "a tokenizer"
    else:
        reads_pictures = "pixel_values" in getattr(reader, "model_input_names", ()) and not hasattr(reader, "tokenizer")
        tool, kind = reader if reads_pictures else getattr(reader, "image_processor", None), "an image processor"
    if not callable(tool):
        raise ParameterError("reader", type(reader).__name__, f"what is read is {_short(value)}; give {kind}")
    return tool


def _item(row: Any, name: str, i: int) -> Any:
    if not isinstance(row, Mapping) or name not in row:
        raise HiesError(f"data[{i}] has no {name!r}.")
    return row[name]


def _is_picture(value: Any) -> bool:
    """Returns True for what PIL, numpy or torch hold a picture in."""
    return hasattr(value, "convert") or getattr(value, "ndim", 0) in (2, 3)


def _short(value: Any) -> str:
    return value if isinstance(value, str) and len(value) < 40 else f"{value!r:.40}"
