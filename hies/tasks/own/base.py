"""What tasks of one's own data share: the options that name it, its splits, and what it is told from others by."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from hies.errors import HiesError, ParameterError
from hies.storage import digest, safe_filename
from hies.tasks.base import SEED_LIMIT, SET_ASIDE, Task
from hies.tasks.own import files
from hies.tasks.splits import Split, Splits

SHARE = 5  # one of so many training examples goes into each split that no file is given for
_MADE: dict[str, tuple[Any, Any]] = {}  # what was made of data -> the data that it was made of, and it; the last alone


@dataclass(frozen=True)
class OwnData(Task):
    """A task whose data are files of one's own, or a data set of the Hub.

    Attributes:
        train: the examples that heads are scored on, and that a model without a classifier is trained on: a file, or a
            data set of the Hub as OWNER/NAME:SPLIT or OWNER/NAME/CONFIGURATION:SPLIT.
        report: the examples that the numbers are of; null: a fifth of train.
        selection: the examples for every choice, such as that of alpha; null: a fifth of train, 1,000 at most.
        name: what rows and figures call the task; null: the name of the file of train, or of the data set.
        encoding: of text files.
        data_seed: draws the splits that no file is given for, and the order of all examples.
    """

    train: str | None = None
    report: str | None = None
    selection: str | None = None
    name: str | None = None  # type: ignore[assignment, misc]
    encoding: str = "utf-8"
    data_seed: int = 0

    kind_name: ClassVar[str]
    example: ClassVar[str] = "FILE.csv"  # of a source, for messages

    def __post_init__(self) -> None:
        super().__post_init__()
        name = self.name or (
            safe_filename(Path(self.train.partition(":")[0]).stem.replace(".", "_")) if self.train else self.kind_name
        )
        if name != safe_filename(name) or name.startswith("."):
            raise ParameterError("name", name, "use letters, digits, dashes, underscores and, behind them, dots")
        from hies.tasks import TASKS

        if name != self.kind_name and name in TASKS:  # whose checkpoints, and rows, are of other data
            raise ParameterError("name", name, "a task of the benchmark has this name, give another one")
        object.__setattr__(self, "name", name)

    def identity(self, data_root: Path | None) -> str:
        """Returns a digest of all examples as they are read, and of what else answers depend on; no path is in it."""
        examples = self._once("digest", data_root, lambda data: data.load(data_root, Path()).digest())
        return digest([self.kind_name, examples, self.rules()])

    def _knobs_without_effect(self, identity: str, data_root: Path | None) -> dict[str, str]:
        """Returns none: the digest is of what is read, whatever the options are that lead to it."""
        return {}

    def rules(self) -> list[Any]:
        """Returns what answers depend on besides the examples."""
        return []

    def load(self, data_root: Path | None, cache_dir: Path) -> Splits:
        """Returns the splits, read once as long as no file changes."""
        return self._once("splits", data_root, lambda data: data.read(data_root))

    def _once(self, what: str, data_root: Path | None, make: Callable[[Any], Any]) -> Any:
        """Returns what `make` makes of the task, of which its data alone count; once as long as no file changes.

        Every job of a sweep asks for it.
        """
        data_only = replace(self, max_examples=None, finetune={}, after=None)
        states = [files.state_of(source) for source in (self.train, self.report, self.selection)]
        key = (type(self), repr(data_only), repr(states), data_root)
        if what not in _MADE or _MADE[what][0] != key:
            _MADE[what] = key, make(data_only)
        return _MADE[what][1]

    def in_use(self, data_root: Path | None) -> Splits:
        """Returns the splits, the report split cut to `max_examples`."""
        splits = self.load(data_root, Path())
        return replace(splits, report=splits.report.first(self.max_examples))

    @abstractmethod
    def read(self, data_root: Path | None) -> Splits:
        """Returns the splits from what the options name."""

    def given(self) -> dict[str, str]:
        """Returns the sources that options name, by the split that they are of."""
        if not self.train:
            expected = f"name the file of your examples, as in task.train={self.example}"
            raise ParameterError("task.train", self.train, expected)
        return {name: source for name in ("train", "report", "selection") if (source := getattr(self, name))}

    def divided(self, parts: dict[str, Split], strata: np.ndarray | None = None, unit: str = "row") -> Splits:
        """Returns three splits in an order drawn with the seed; what no file is given for is drawn from train.

        Args:
            parts: the examples of each file that is given.
            strata: classes of the examples of train, [examples], whose shares every split keeps; None: none.
            unit: what messages call an example.
        """
        rest, drawn = np.arange(len(parts["train"])), {}
        each = len(rest) // SHARE
        for place, name in enumerate(("report", "selection")):
            if name not in parts:
                count = each if name == "report" else min(each, SET_ASIDE)
                rest, drawn[name] = self._drawn(rest, count, place, strata, unit)
        generator = np.random.default_rng(self.data_seed)
        splits = {name: parts["train"].take(chosen) for name, chosen in (("train", rest), *drawn.items())}
        for name in ("report", "selection"):
            if name in parts:
                splits[name] = parts[name].take(generator.permutation(len(parts[name])))
        return Splits(**splits)

    def _drawn(
        self, places: np.ndarray, count: int, place: int, strata: np.ndarray | None, unit: str
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns the places that are left, shuffled, and `count` that are drawn."""
        from sklearn.model_selection import train_test_split

        labels = None if strata is None else strata[places]
        try:
            rest, drawn = train_test_split(
                places, test_size=max(count, 1), random_state=(self.data_seed + place) % SEED_LIMIT, stratify=labels
            )
        except ValueError:  # too few of them, or of one class
            counts = Counter([] if labels is None else labels.tolist())
            rarest = min(counts, key=lambda name: counts[name]) if counts else None
            rare = f", {counts[rarest]} of them {rarest!r}," if rarest is not None else ""
            raise HiesError(
                f"{files.called(self.train or '')} has {len(places)} {unit}s{rare} from which splits cannot be drawn; "
                "give more of them, or files of their own as task.report and task.selection."
            ) from None
        return rest, drawn

    def warn_of_shared(self, parts: dict[str, Split], splits: Splits, unit: str = "row") -> None:
        """Warns where examples of the report stand among those to train on, or for choices, as well."""
        for name, purpose in (("train", "to train on"), ("selection", "for choices")):
            seen = {*_keys(getattr(splits, name))}
            shared = [key for key in _keys(splits.report) if key in seen]
            if not shared:
                continue
            other, report = (parts.get(part, parts["train"]) for part in (name, "report"))
            rows = [_keys(part).index(shared[0]) + 1 for part in (report, other)]
            if report is other:
                rows[0] = len(_keys(other)) - _keys(other)[::-1].index(shared[0])
            called = [files.called(getattr(self, part) or self.train or "") for part in ("report", name)]
            warnings.warn(
                f"{len(shared)} of the {len(splits.report)} reported {unit}s are among those {purpose} too: {unit} "
                f"{rows[0]} of {called[0]} is {unit} {rows[1]} of {called[1]} (upper case and blanks aside); leave "
                "them out of one.",
                stacklevel=2,
            )

    def origin(self) -> str:
        """Returns where the splits come from, in words."""
        drawn = [name for name in ("report", "selection") if getattr(self, name) is None]
        named = [f"{name} {files.called(source)}" for name, source in self.given().items()]
        how = f"; {' and '.join(drawn)} drawn from train with task.data_seed={self.data_seed}" if drawn else ""
        return ", ".join(named) + how

    def notes(self, data_root: Path | None) -> dict[str, Any]:
        """Returns that calibration examples are training examples."""
        return {"calibration_source": "train"}


def _keys(split: Split) -> list[tuple[Any, ...]]:
    """Returns the inputs of each example, hashable; of texts without upper case and without blanks that repeat."""
    return list(zip(*(map(_key, column) for column in split.inputs.values()), strict=True))


def _key(cell: Any) -> Any:
    text = repr(cell) if isinstance(cell, list) else cell
    return " ".join(text.lower().split()) if isinstance(text, str) else text


def sizes_in_words(splits: Splits) -> str:
    """Returns how many examples each split has."""
    return (
        f"{len(splits.train):,} to score heads (or train) on, {len(splits.selection):,} for choices, "
        f"{len(splits.report):,} reported"
    )
