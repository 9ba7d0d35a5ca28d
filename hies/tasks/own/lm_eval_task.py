"""lm_eval: a task of lm-eval by its name, multiple choice or an answer that is generated."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from hies.errors import ParameterError
from hies.tasks import lm_eval as harness
from hies.tasks.base import Answers
from hies.tasks.language import Written, generates
from hies.tasks.lm_eval_definitions import content, find, reason_to_refuse
from hies.tasks.splits import Split

if TYPE_CHECKING:
    import pandas as pd

PROMPTS = ("doc_to_text", "doc_to_target", "doc_to_choice")  # what says which columns are read


@dataclass(frozen=True)
class LmEval(Written):
    """A task of lm-eval by its name, with a definition of its own or of yours: multiple choice by `acc`, and generation
    by `exact_match` of the first filter. Anything else is refused.

    Attributes:
        name: what lm-eval calls it (`lm-eval ls tasks`).
        include_path: a folder of further definitions, as lm-eval takes it.
    """

    name: str | None = None  # type: ignore[assignment, misc]
    include_path: str | None = None

    kind_name: ClassVar[str] = "lm_eval"

    def __post_init__(self) -> None:
        super().__post_init__()
        from hies.tasks import TASKS

        if self.name in TASKS:
            raise ParameterError("name", self.name, f"it is here already: task={self.name}")

    @cached_property
    def definition(self) -> str:  # type: ignore[override]
        """lm-eval's YAML file."""
        if self.name is None:
            raise ParameterError("task.name", None, "give that of a task of lm-eval, as in task.name=boolq")
        path = find(self.name, self.include_path)
        if reason := reason_to_refuse(path):
            expected = f"lm-eval's task {reason}; what can be evaluated is multiple choice by acc, and exact_match"
            raise ParameterError("task.name", self.name, expected)
        if self.new_tokens is not None and not generates(harness.definition(path)):
            raise ParameterError("task.new_tokens", self.new_tokens, f"{self.name} generates nothing; leave it out")
        return path

    @property
    def metric(self) -> str:  # type: ignore[override]
        """What answers are measured by."""
        return "exact_match" if self.name is not None and generates(self._definition) else "accuracy"

    @property
    def trained(self) -> str:  # type: ignore[override]
        """The split that heads are scored on: one that is not reported, of those that the definition names."""
        splits = ("training_split", "validation_split", "fewshot_split")
        found = (self._definition.get(split) for split in splits)
        return next((str(split) for split in found if split not in (None, self.reported)), "")

    @property
    def reported(self) -> str:  # type: ignore[override]
        """The split that lm-eval evaluates on."""
        return str(self._definition.get("test_split") or self._definition["validation_split"])

    @property
    def further(self) -> tuple[str, ...]:  # type: ignore[override]
        """The split that solved examples are drawn from, if it is another one."""
        source = self._definition.get("fewshot_split")
        return () if source in (None, self.trained, self.reported) else (str(source),)

    @property
    def options(self) -> str:  # type: ignore[override]
        """What `datasets` loads the data with, as JSON."""
        return json.dumps(self._definition.get("dataset_kwargs") or {}, sort_keys=True)

    def description(self, data_root: Path | None) -> str:
        """Returns what is read: definition, data set and splits."""
        scored = self.notes(data_root)["calibration_source"]
        file, place = Path(self.definition).name, "/".join(filter(None, self._where(data_root)))
        return f"{self.name}: {file}, {place}; heads scored on {scored}, reported {self.reported}."

    def answers(self, network: Any, processor: Any, examples: Split, batch_size: int, precision: str) -> Answers:
        """Returns the options chosen, as any `ChoiceTask`; or what the first filter finds in the generated texts."""
        if not generates(self._definition):
            return super().answers(network, processor, examples, batch_size, precision)
        return {"predictions": next(iter(self.written(network, processor, examples, batch_size, precision).values()))}

    def _where(self, data_root: Path | None) -> tuple[str, Any]:
        return str(self._definition.get("dataset_path")), self._definition.get("dataset_name")

    def _rows(self, data_root: Path | None) -> Any:
        rows, source = super()._rows(data_root), self._definition.get("fewshot_split")
        shots = (self._definition.get("num_fewshot") or 0) if self.shots is None else self.shots
        if source == self.reported and shots:
            expected = f"lm-eval draws the examples of {self.name} from what is reported, so give 0"
            raise ParameterError("task.shots", shots, expected)
        return rows._replace(pool=self._frames(data_root)[source]) if source in self.further else rows

    def _is_read_as_text(self, name: str, column: pd.Series) -> bool:
        words = " ".join(str(self._definition.get(prompt)) for prompt in PROMPTS)
        return re.search(rf"\b{re.escape(name)}\b", words) is not None  # columns that no template names may be empty

    def _settings(self) -> list[Any]:
        return [*super()._settings(), content(self.definition)]
