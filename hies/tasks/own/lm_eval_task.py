"""lm_eval: a task of lm-eval by its name, multiple choice or an answer that is generated."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cached_property
from numbers import Real
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from hies.errors import ParameterError
from hies.tasks import checks
from hies.tasks import lm_eval as harness
from hies.tasks.base import Answers
from hies.tasks.language import Language
from hies.tasks.lm_eval_definitions import content, find, reason_to_refuse
from hies.tasks.splits import Split

PROMPTS = ("doc_to_text", "doc_to_target", "doc_to_choice")  # what says which columns are read


@dataclass(frozen=True)
class LmEval(Language):
    """A task of lm-eval by its name, with a definition of its own or of yours: multiple choice by `acc`, and generation
    by `exact_match` of the first filter. Anything else is refused.

    Attributes:
        name: what lm-eval calls it (`lm-eval ls tasks`).
        include_path: a folder of further definitions, as lm-eval takes it.
        new_tokens: at most N tokens are generated; null: as many as the definition says.
    """

    name: str | None = None  # type: ignore[assignment, misc]
    include_path: str | None = None
    new_tokens: int | None = None

    kind_name: ClassVar[str] = "lm_eval"

    def __post_init__(self) -> None:
        super().__post_init__()
        from hies.tasks import TASKS

        if self.name in TASKS:
            raise ParameterError("name", self.name, f"it is here already: task={self.name}")
        if self.new_tokens is not None and self.new_tokens < 1:
            raise ParameterError("new_tokens", self.new_tokens, "it must be at least 1, or null for lm-eval's number")

    @cached_property
    def definition(self) -> str:  # type: ignore[override]
        """lm-eval's YAML file."""
        if self.name is None:
            raise ParameterError("task.name", None, "give that of a task of lm-eval, as in task.name=boolq")
        path = find(self.name, self.include_path)
        if reason := reason_to_refuse(path):
            expected = f"lm-eval's task {reason}; what can be evaluated is multiple choice by acc, and exact_match"
            raise ParameterError("task.name", self.name, expected)
        if self.new_tokens is not None and not _generates(harness.definition(path)):
            raise ParameterError("task.new_tokens", self.new_tokens, f"{self.name} generates nothing; leave it out")
        return path

    @property
    def metric(self) -> str:  # type: ignore[override]
        """What answers are measured by."""
        return "exact_match" if self.name is not None and self._generates else "accuracy"

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
        if not self._generates:
            return super().answers(network, processor, examples, batch_size, precision)
        config = self._definition
        usual = {"until": [config.get("fewshot_delimiter", "\n\n")]}  # lm-eval's
        settings = usual | (config.get("generation_kwargs") or {})
        settings |= {} if self.new_tokens is None else {"max_gen_toks": self.new_tokens}
        questions = [contexts[0] for contexts in examples.inputs["contexts"]]
        texts = harness.generate(network, processor, questions, settings, batch_size, precision)
        return {"predictions": self._labels(next(iter(harness.extracted(self.definition, texts).values())))}

    def right_options(self, labels: np.ndarray) -> np.ndarray:
        """Returns the right options; zeros where there is one continuation, the right text."""
        return np.zeros(len(labels), dtype=np.int64) if self._generates else labels

    @property
    def _definition(self) -> dict[str, Any]:
        return harness.definition(self.definition)

    @property
    def _generates(self) -> bool:
        return _generates(self._definition)

    def _where(self, data_root: Path | None) -> tuple[str, Any]:
        return str(self._definition.get("dataset_path")), self._definition.get("dataset_name")

    def _rows(self, data_root: Path | None) -> Any:
        rows, source = super()._rows(data_root), self._definition.get("fewshot_split")
        shots = (self._definition.get("num_fewshot") or 0) if self.shots is None else self.shots
        if source == self.reported and shots:
            expected = f"lm-eval draws the examples of {self.name} from what is reported, so give 0"
            raise ParameterError("task.shots", shots, expected)
        return rows._replace(pool=self._frames(data_root)[source]) if source in self.further else rows

    def _check_texts(self, data_root: Path | None) -> None:
        """Refuses what is no text in the columns that templates name: others may be empty."""
        words = " ".join(str(self._definition.get(name)) for name in PROMPTS)
        for split in self._used(data_root):
            for name, column in self._frames(data_root)[split].items():
                if re.search(rf"\b{re.escape(str(name))}\b", words):
                    where = f"the split {split!r} of {self._where(data_root)[0]}"
                    checks.check_cells(str(name), column, where, (str, Real))

    def _settings(self) -> list[Any]:
        return [*super()._settings(), self.new_tokens, content(self.definition)]

    def _labels(self, answers: list[Any]) -> np.ndarray:
        if not self._generates:
            return super()._labels(answers)
        return np.array([harness.normalized_text(self.definition, text) for text in answers], dtype=str)


def _generates(definition: dict[str, Any]) -> bool:
    return definition.get("output_type", "generate_until") == "generate_until"
