"""table: texts, pairs of texts or images with labels, from a CSV, JSON lines or parquet file, or a Hub data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from hies.errors import HiesError, ParameterError, check_choice
from hies.tasks import checks
from hies.tasks.base import Answers, ClassifierTask
from hies.tasks.own import cells
from hies.tasks.own import labels as labels_of
from hies.tasks.own.base import OwnData, sizes_in_words
from hies.tasks.own.columns import FoundColumns, find_columns, names_of
from hies.tasks.own.files import read_rows
from hies.tasks.splits import Split, Splits

if TYPE_CHECKING:
    import pandas as pd

    from hies.batching import Encoded

# Kind of labels -> the metrics that it can have, the first by default.
METRICS_OF = {
    "classification": ("accuracy", "f1", "f1_macro", "f1_weighted", "matthews"),
    "multi_label": ("f1_macro", "f1_weighted", "accuracy"),
    "regression": ("pearson",),
}
PROBLEMS = {
    "classification": "single_label_classification",
    "multi_label": "multi_label_classification",
    "regression": "regression",
}  # kind of labels -> what transformers calls it
STEPS = 5  # what the scale of scores is brought to, on which stability rounds them (`hies.runs.quality`)


@dataclass(frozen=True)
class _Content:
    """What is in the files.

    Attributes:
        tables: part -> its rows.
        columns: those that are read, the same in all of them.
        labels: part -> the label of each row: a text, a set of texts, or a number.
        named: what a data set of the Hub calls the classes whose numbers are in its column of labels; mostly nothing.
    """

    tables: dict[str, pd.DataFrame]
    columns: FoundColumns
    labels: dict[str, list[Any]]
    named: Sequence[str]

    def every_label(self) -> tuple[str, ...]:
        """Returns the names of several columns of labels, or all labels as they stand."""
        if len(self.columns.labels) > 1:
            return self.columns.labels
        return tuple({one for found in self.labels.values() for cell in found for one in labels_of.labels_in(cell)})


@dataclass(frozen=True)
class OwnTable(OwnData, ClassifierTask):
    """Texts, pairs of texts or images with labels, from a CSV, JSON lines or parquet file, or a Hub data set.

    Attributes:
        text: the column of texts; null: guessed from the names of the columns.
        text_pair: the column of second texts, for pairs; null: none, or guessed.
        image: the column of images, in the place of texts: paths that count from the file's folder, or encoded files.
        label: the column of labels, texts or numbers; null: guessed. Several columns of 0 and 1 (`[toxic,rude]`): one
            for each of the labels that an example may have.
        id: the column of ids, none of which may occur twice, where there is one; null: it is not looked at.
        kind: `classification`; `multi_label` (any number of labels an example, parted by `|` in one column, or a list);
            `regression` (a score).
        metric: `accuracy`, `f1` (two classes; the second one is looked for), `f1_macro`, `f1_weighted`, `matthews`;
            for scores `pearson`. null: accuracy, f1_macro for `multi_label`, pearson for `regression`.
        classes: the classes in the order of the model's outputs; null: those that the classifier of the model's folder
            names, else all labels, sorted.
        scale: for `regression`, the lowest and the highest score: `[1,5]`. Answers agree that round to the same of six
            steps of it, as those of STS-B do on their scale from 0 to 5.
        separator: of the fields of a CSV file; null: a comma, in .tsv a tab.
    """

    text: str | None = None
    text_pair: str | None = None
    image: str | None = None
    label: Any = None  # a name, or a list of names
    id: str | None = "id"
    kind: str = "classification"
    metric: str | None = None  # type: ignore[assignment, misc]
    classes: Any = None  # list of names
    scale: Any = None  # two numbers
    separator: str | None = None

    kind_name: ClassVar[str] = "table"

    def __post_init__(self) -> None:
        if isinstance(self.label, list | tuple) and len(self.label) > 1 and self.kind == "classification":
            object.__setattr__(self, "kind", "multi_label")
        check_choice("kind", self.kind, METRICS_OF)
        object.__setattr__(self, "metric", self.metric or METRICS_OF[self.kind][0])
        if self.metric not in (known := METRICS_OF[self.kind]):
            raise ParameterError("metric", self.metric, f"for task.kind={self.kind} use {' or '.join(known)}")
        if self.kind == "regression" and not _is_scale(self.scale):
            raise ParameterError("scale", self.scale, "give the lowest and the highest score, as in task.scale=[1,5]")
        for option, is_used in (("scale", self.kind == "regression"), ("classes", self.kind != "regression")):
            if getattr(self, option) is not None and not is_used:
                raise ParameterError(option, getattr(self, option), f"task.kind={self.kind} has none; leave it out")
        if self.classes is not None:
            classes = tuple(map(str, self.classes)) if isinstance(self.classes, list | tuple) else ()
            if len(set(map(str.strip, classes))) < max(len(classes), 1):
                expected = "give a list with each class once, as in task.classes=[negative,positive]"
                raise ParameterError("classes", self.classes, expected)
            object.__setattr__(self, "classes", classes)
        super().__post_init__()

    @property
    def modality(self) -> str:  # type: ignore[override]
        """What a model must take."""
        return "text" if self.image is None else "image"

    @property
    def numbered(self) -> bool:  # type: ignore[override]
        """Whether the classes are in the order of the model's outputs."""
        return self.classes is not None

    def label_names(self, data_root: Path | None = None) -> tuple[str, ...]:
        """Returns the classes; none for scores, and where an example may have several labels."""
        return self.output_names(data_root) if self.kind == "classification" else ()

    def output_names(self, data_root: Path | None) -> tuple[str, ...]:
        """Returns the classes, or the labels of which an example may have several; none for scores."""
        return self._names(self._content(data_root))

    def rules(self) -> list[Any]:
        """Returns what labels mean."""
        return [self.kind, self.metric, self.classes, self.scale]

    def read(self, data_root: Path | None) -> Splits:
        """Returns the splits; every cell is checked."""
        content = self._content(data_root)
        names, columns = self._names(content), content.columns
        if self.metric == "f1" and len(names) != 2:
            expected = f"it is of two classes, and there are {len(names)}; use f1_macro"
            raise ParameterError("task.metric", "f1", expected)
        parts = {}
        for part, rows in content.tables.items():
            source = self.given()[part]
            cells.check_ids(rows, self.id, source)
            inputs = cells.inputs(rows, columns.texts, columns.image, source)
            parts[part] = Split(inputs, self._array(content.labels[part], names))
            if len(set(parts[part].labels.tolist())) < 2:
                raise labels_of.all_the_same(content.labels[part], source, columns.labels[0])
        if self.classes is None and self.kind != "regression":
            labels_of.warn_of_untrained(content.labels, self.given())
        labels = parts["train"].labels
        strata = {"classification": lambda: np.array(names)[labels], "multi_label": lambda: cells.common_sets(labels)}
        splits = self.divided(parts, strata[self.kind]() if self.kind in strata else None)
        self.warn_of_shared(parts, splits)
        return splits

    def checked(self, split: Split, where: str, data_root: Path | None = None) -> Split:
        """Returns the split, whose labels are classes, scores, or for several labels a 0 or 1 for each: "0110"."""
        if self.kind != "multi_label":
            return super().checked(split, where, data_root)
        checks.check_columns(split.inputs, len(split), where, (str,))
        return Split(split.inputs, checks.text_labels(split.labels, where))

    def for_classifier(self, outputs: Sequence[str], data_root: Path | None) -> OwnTable:
        """Returns the task with the classes of a classifier, by name or by number, in the order of its outputs.

        Raises:
            HiesError: the classifier lacks one of the labels, does not say which output stands for which, or names them
            in another order than `classes`.
        """
        if self.kind == "regression" or self.classes is not None:
            needed = 1 if self.classes is None else len(self.classes)
            if needed != len(outputs):
                name, value = ("classes", list(self.classes)) if self.classes else ("kind", self.kind)
                raise ParameterError(f"task.{name}", value, f"the model has {len(outputs)} outputs, not {needed}")
            labels_of.check_order(self.classes or (), outputs)
            return self
        content, known = self._content(data_root), labels_of.Names(outputs)
        labels, named = content.every_label(), {*map(checks.plain_label, outputs)}
        unnamed, classes = checks.are_unnamed(outputs), tuple(outputs)
        if None in map(known.place, labels):
            numbers = [number for label in labels if (number := labels_of.number_of(label)) and number.isdecimal()]
            if self.kind == "classification" and len(numbers) == len(labels):
                numbered = [checks.plain_label(name) for name in content.named]
                order = map(numbered.index, map(checks.plain_label, outputs)) if {*numbered} == named else None
                if not content.named:
                    labels_of.check_start(numbers, len(outputs))
                classes = tuple(map(str, order or range(len(outputs))))
            elif self.kind == "classification" and unnamed and len(self._names(content)) == len(outputs):
                return self  # answers tell which is which
            elif unnamed:
                expected = f"the model does not name its {len(outputs)} outputs, so name what each stands for, in order"
                raise ParameterError("task.classes", None, expected)
        self._check_known(content, classes, outputs)
        return replace(self, classes=classes)

    def network_options(self, data_root: Path | None, architecture: dict[str, Any], processor: Any) -> dict[str, Any]:
        """Returns the outputs by name, and for several labels what kind they are of."""
        outputs = super().network_options(data_root, architecture, processor)
        return outputs | ({"problem_type": PROBLEMS[self.kind]} if self.kind == "multi_label" else {})

    def check_network(self, network: Any, data_root: Path | None, checkpoint: str) -> None:
        """Raises HiesError for a network with other outputs, or in another order, or for another kind of labels."""
        try:
            super().check_network(network, data_root, checkpoint)
        except HiesError as error:
            raise HiesError(f"{str(error).removesuffix('.')}, or name all its classes as task.classes.") from None
        if network.config.problem_type not in (None, PROBLEMS[self.kind]):
            expected = f"the model was trained for problem_type {network.config.problem_type!r}"
            raise ParameterError("task.kind", self.kind, expected)
        outputs = [str(name) for _, name in sorted(network.config.id2label.items())]
        labels_of.check_order(self.classes or (), outputs)
        if self.kind == "multi_label" and self.classes is None:  # no answers tell which output is which
            names = self.output_names(data_root)
            if [*map(labels_of.Names(outputs).place, names)] != [*range(len(names))]:
                expected = f"the model has {labels_of.listed(outputs)}; name what each output stands for, in order"
                raise ParameterError("task.classes", None, expected)

    def encode(self, examples: Split, processor: Any, max_length: int, image_size: int | None = None) -> Encoded:
        """Returns tokens cut to `max_length`, or pixels; several labels are a row of 0 and 1."""
        if self.kind == "multi_label":
            examples = replace(examples, labels=cells.bits_of(examples.labels).astype(np.float32))
        return super().encode(examples, processor, max_length, image_size)

    def answers(self, network: Any, processor: Any, examples: Encoded, batch_size: int, precision: str) -> Answers:
        """Returns class indices; scores, their scale brought to 0 to 5; or several labels as a text such as 0110.

        `losses` are of labels as they stand: of several labels the mean of their binary cross-entropies.
        """
        from hies.tasks import classifier

        several = self.kind == "multi_label"
        answer = classifier.labels_that_hold if several else classifier.class_or_score
        found = classifier.predict(network, examples, batch_size, precision, answer)
        if several:
            found["predictions"] = cells.text_of_bits(found["predictions"])
        elif self.kind == "regression":
            found["predictions"] = self.as_answers(found["predictions"])
        return found

    def as_answers(self, values: np.ndarray) -> np.ndarray:
        """Returns scores with their scale brought to 0 to 5, float32; other labels as they are."""
        if self.kind != "regression":
            return values
        low, high = self.scale
        return ((values - low) * (STEPS / (high - low))).astype(np.float32)

    def description(self, data_root: Path | None) -> str:
        """Returns what is read: files, columns, classes and splits."""
        splits, content = self.in_use(data_root), self._content(data_root)
        columns = content.columns
        inputs = " and ".join(map(repr, [columns.image] if columns.image else columns.texts))
        guessed = f" (guessed: {', '.join(map(repr, columns.guessed))})" if columns.guessed else ""
        labels = f"labels in {', '.join(map(repr, columns.labels))}{guessed}"
        outcomes = self._outcomes(self._names(content), splits.report.labels)
        return f"{self.name}: {self.origin()}; inputs in {inputs}, {labels}; {outcomes}; {sizes_in_words(splits)}."

    def _outcomes(self, names: Sequence[str], labels: np.ndarray) -> str:
        """Returns the labels in words, with how often each is reported; or the scale of scores."""
        if self.kind == "regression":
            return "scores from {:g} to {:g}".format(*self.scale)
        several = self.kind == "multi_label"
        counts = cells.bits_of(labels).sum(axis=0) if several else np.bincount(labels, minlength=len(names))
        shown = [f"{name} {count}" for name, count in zip(names, counts, strict=True)][: labels_of.SHOWN_LABELS]
        more = f" and {len(names) - labels_of.SHOWN_LABELS} more" if len(names) > labels_of.SHOWN_LABELS else ""
        return f"{len(names)} {'labels' if several else 'classes'}, reported: {', '.join(shown)}{more}"

    def _content(self, data_root: Path | None) -> _Content:
        """Returns what is in the files, whatever the classes are called."""
        any_classes = replace(self, classes=None)
        return any_classes._once("content", data_root, lambda data: data._read_content(data_root))

    def _read_content(self, data_root: Path | None) -> _Content:
        given, options = self.given(), (self.encoding, self.separator, data_root)
        tables = {part: read_rows(part, source, *options) for part, source in given.items()}
        names = {part: [*map(str, rows.columns)] for part, rows in tables.items()}
        labels = names_of("label", self.label)
        asked = ((self.text, self.text_pair), self.image, labels)
        columns = find_columns(names["train"], given["train"], *asked, self.id)
        for part, source in given.items():
            find_columns(names[part], source, columns.texts, columns.image, columns.labels, self.id)
        kinds = {"classification": cells.classes, "multi_label": cells.label_sets, "regression": self._scores}
        read: Any = kinds[self.kind]
        found = {part: read(tables[part], columns.labels, source) for part, source in given.items()}
        if self.kind == "multi_label" and len(columns.labels) == 1:
            (column,) = columns.labels
            cells.check_names({part: rows[column].tolist() for part, rows in tables.items()}, given, column)
        return _Content(tables, columns, found, tables["train"].attrs.get(columns.labels[0], ()))

    def _scores(self, rows: pd.DataFrame, columns: Sequence[str], source: str) -> list[float]:
        return cells.scores(rows, columns[0], source, self.scale)

    def _names(self, content: _Content) -> tuple[str, ...]:
        """Returns all labels: `classes` where they are given, else those that occur, sorted; none for scores."""
        if self.kind == "regression":
            return ()
        if self.classes is not None:
            self._check_known(content, self.classes, self.classes)
            return self.classes
        if len(content.columns.labels) > 1:
            return content.columns.labels
        return labels_of.classes_of(content.labels, self.given(), content.columns.labels[0])

    def _check_known(self, content: _Content, classes: Sequence[str], outputs: Sequence[str]) -> None:
        """Raises HiesError for the first label that is none of the classes, which messages call `outputs`."""
        labels_of.check_known(content.labels, self.given(), content.columns.labels[0], classes, outputs)

    def _array(self, labels: Sequence[Any], names: Sequence[str]) -> np.ndarray:
        """Returns labels as splits have them: class indices, scores, or texts of 0 and 1."""
        if self.kind == "regression":
            return np.array(labels, dtype=np.float32)
        known = labels_of.Names(names)
        place: dict[str, Any] = {label: known.place(label) for cell in labels for label in labels_of.labels_in(cell)}
        if self.kind == "classification":
            return np.array([place[label] for label in labels], dtype=np.int64)
        bits = np.zeros((len(labels), len(names)), dtype=np.uint8)
        for row, several in enumerate(labels):
            bits[row, [place[label] for label in several]] = 1
        return cells.text_of_bits(bits)


def _is_scale(scale: Any) -> bool:
    """Returns whether a value is two numbers, the lower one first."""
    numbers = isinstance(scale, list | tuple) and all(isinstance(one, int | float) for one in scale)
    return numbers and len(scale) == 2 and -inf < scale[0] < scale[1] < inf
