"""The paper's language tasks, by lm-eval's own definitions: a choice among options, or an answer that is generated.

What is reported are the documents that lm-eval evaluates on, so that the unpruned model's quality is its number. Heads
are scored, and alpha is chosen, on documents of the training split; where a data set comes without one, the first
documents of the reported split serve for both and are left out of the report (`notes` says which it was).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from hies.errors import HiesError, ParameterError
from hies.storage import digest
from hies.tasks import checks, hub
from hies.tasks import lm_eval as harness
from hies.tasks.base import Answers, declare
from hies.tasks.choice_task import ChoiceTask
from hies.tasks.splits import Split, Splits

if TYPE_CHECKING:
    import pandas as pd


PROMPTS_VERSION = 1  # to be raised when the same documents give other splits
CALIBRATION = 4096  # at most N training documents that calibration sets are drawn from
SELECTION = 512  # at most N training documents, and at most a quarter of them, for selection
HELD_OUT = 1024  # at most N documents of the reported split, and half of it, in the place of a missing training split


class _Rows(NamedTuple):
    train: pd.DataFrame  # calibration, and few-shot examples of selected documents
    selection: pd.DataFrame  # every choice, such as that of alpha
    report: pd.DataFrame
    pool: pd.DataFrame  # few-shot examples of reported documents, the ones that lm-eval draws from
    source: str  # where `train` comes from, in words


@dataclass(frozen=True)
class Language(ChoiceTask):
    """One task; a subclass declares its data set and lm-eval's definition of it.

    Attributes:
        repository: the data set's name on the Hub.
        config: its configuration.
        definition: lm-eval's YAML file.
        trained: the split that heads are scored on, if the data set has it.
        reported: the split that lm-eval evaluates on.
        further: other splits that must be there.
        options: what else `datasets` needs to load it, as JSON.
        shots: few-shot examples in front of a reported or selected document, drawn by lm-eval's seed; None: as many as
            lm-eval's definition says. Calibration documents have none.
    """

    repository: ClassVar[str]
    config: ClassVar[str]
    definition: ClassVar[str]
    trained: ClassVar[str] = "train"
    reported: ClassVar[str] = "test"
    further: ClassVar[tuple[str, ...]] = ()
    options: ClassVar[str] = "{}"

    shots: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.shots is not None and self.shots < 0:
            raise ParameterError("shots", self.shots, "it must be 0 or more, or null for lm-eval's number")

    def identity(self, data_root: Path | None) -> str:
        """Returns a digest of the documents, of how they are divided, and of lm-eval's version, which words prompts."""
        place = (*self._where(data_root), data_root, self.options)
        contents = [_content(split, *place) for split in self._used(data_root)]
        return digest([self.name, PROMPTS_VERSION, harness.version(), self._settings(), contents])

    def load(self, data_root: Path | None, cache_dir: Path) -> Splits:
        """Returns the splits as prompts, see `hies.tasks.lm_eval.prompts`; `max_examples` of the report split."""
        self._check_texts(data_root)
        rows = self._rows(data_root)
        report = rows.report.head(self.max_examples or len(rows.report))
        return Splits(
            self._split("train", rows.train, rows.pool, 0),
            self._split("selection", rows.selection, rows.train, self.shots),
            self._split("report", report, rows.pool, self.shots),
        )

    def notes(self, data_root: Path | None) -> dict[str, Any]:
        """Returns where calibration documents come from: `train`, or for example `validation[:1024]`."""
        return {"calibration_source": self._rows(data_root).source}

    def _where(self, data_root: Path | None) -> tuple[str, Any]:
        """Returns the repository and its configuration (None: the only one)."""
        return self.repository, self.config

    def _frames(self, data_root: Path | None) -> hub.Frames:
        repository, config = self._where(data_root)
        frames = hub.frames(repository, config, data_root, self.options)
        for split in (*self.further, self.reported):
            if split not in frames:
                raise HiesError(f"The copy of {repository} has no split {split!r}, which task={self.name} needs.")
        return frames

    def _used(self, data_root: Path | None) -> list[str]:
        """Returns the splits of the data set that results depend on."""
        return [name for name in (self.trained, *self.further, self.reported) if name in self._frames(data_root)]

    def _settings(self) -> list[Any]:
        """Returns what the prompts and answers depend on besides the documents."""
        return [self.shots, CALIBRATION, SELECTION, HELD_OUT]

    def _rows(self, data_root: Path | None) -> _Rows:
        frames = self._frames(data_root)
        documents, report, source = frames.get(self.trained), frames[self.reported], self.trained
        if documents is None:
            start = min(HELD_OUT, len(report) // 2)
            documents, report, source = report.iloc[:start], report.iloc[start:], f"{self.reported}[:{start}]"
        selection = _evenly(documents, min(SELECTION, len(documents) // 4))
        train = _evenly(documents.drop(selection.index), CALIBRATION)
        return _Rows(train, selection, report, documents, source)

    def _check_texts(self, data_root: Path | None) -> None:
        """Refuses what is no text among the texts of a column: a template would write None or nan into a prompt."""
        frames, repository = self._frames(data_root), self._where(data_root)[0]
        for split in self._used(data_root):
            for name, column in frames[split].items():
                if self._is_read_as_text(str(name), column):
                    checks.check_cells(str(name), column, f"the split {split!r} of {repository}", (str, Real))

    def _is_read_as_text(self, name: str, column: pd.Series) -> bool:
        return any(isinstance(value, str) for cell in column for value in checks.values(cell))

    def _split(self, name: str, rows: pd.DataFrame, pool: pd.DataFrame, shots: int | None) -> Split:
        columns, answers = harness.prompts(self.definition, rows, pool, shots, f"the {name} split")
        return Split(columns, self._labels(answers))

    def _labels(self, answers: list[Any]) -> np.ndarray:
        return np.array(answers, dtype=np.int64)


class PIQA(Language):
    """Which of two ways reaches an everyday goal?

    A copy may lie under the name of its authors, ybisk/piqa, or of the mirror that lm-eval reads. From the Hub comes
    the mirror: the authors' repository is a script there, which datasets no longer runs.
    """

    name = "piqa"
    repository, config = "ybisk/piqa", "plain_text"
    mirror: ClassVar[str] = "baber/piqa"
    definition = "piqa/piqa.yaml"
    reported = "validation"

    def _where(self, data_root: Path | None) -> tuple[str, Any]:
        if data_root is not None and (data_root / self.repository).is_dir():
            return self.repository, self.config
        return self.mirror, None

    def _frames(self, data_root: Path | None) -> hub.Frames:
        try:
            return super()._frames(data_root)
        except HiesError as error:
            if self._where(data_root)[0] == self.repository:
                raise
            raise HiesError(
                "PIQA is not here: set data_root (or the environment's HIES_DATA) to a folder with a copy in "
                f"{self.repository}/, or connect to the Hugging Face Hub, which has {self.mirror}."
            ) from error


@dataclass(frozen=True)
class MMLU(Language):
    """Questions from 57 subjects, five examples of the same subject in front of each.

    Accuracy is over all questions, which is how lm-eval weighs the subjects of its group. Reported and selected
    questions take the subjects in turn, so that the first ones are of all subjects. Calibration questions are those of
    `dev`, from which the examples come as well; selected ones are from `validation`.
    """

    name = "mmlu"
    repository, config = "cais/mmlu", "all"
    definition = "mmlu/default"  # the folder that holds one definition a subject
    further = ("dev", "validation")

    shots: int | None = 5

    def _rows(self, data_root: Path | None) -> _Rows:
        frames = self._frames(data_root)
        dev, selection, report = (frames[name] for name in (*self.further, self.reported))
        return _Rows(dev, _in_turn(selection).head(SELECTION), _in_turn(report), dev, "dev")

    def _split(self, name: str, rows: pd.DataFrame, pool: pd.DataFrame, shots: int | None) -> Split:
        columns: dict[str, list[Any]] = {}
        answers, places = [], []
        for subject, documents in rows.reset_index(drop=True).groupby("subject", sort=False):
            path = f"{self.definition}/mmlu_{subject}.yaml"
            if not harness.is_defined(path):
                raise HiesError(f"The copy of {self.repository} has the subject {subject!r}, which lm-eval lacks.")
            examples = pool[pool["subject"] == subject]
            prompts, right = harness.prompts(path, documents, examples, shots, f"the {name} split")
            for column, values in prompts.items():
                columns.setdefault(column, []).extend(values)
            answers += right
            places += documents.index.tolist()
        return Split(columns, self._labels(answers)).take(np.argsort(places))


@dataclass(frozen=True)
class Written(Language):
    """A task whose answers are generated, unless its definition says that they are chosen.

    Attributes:
        new_tokens: at most N tokens are generated; None: as many as the definition says.
    """

    new_tokens: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.new_tokens is not None and self.new_tokens < 1:
            raise ParameterError("new_tokens", self.new_tokens, "it must be at least 1, or null for lm-eval's number")

    def written(
        self, network: Any, processor: Any, examples: Split, batch_size: int, precision: str
    ) -> dict[str, np.ndarray]:
        """Returns what each filter of the definition finds in the generated texts, as strings [examples]."""
        config = self._definition
        usual = {"until": [config.get("fewshot_delimiter", "\n\n")]}  # lm-eval's
        settings = usual | (config.get("generation_kwargs") or {})
        settings |= {} if self.new_tokens is None else {"max_gen_toks": self.new_tokens}
        questions = [contexts[0] for contexts in examples.inputs["contexts"]]
        texts = harness.generate(network, processor, questions, settings, batch_size, precision)
        return {name: self._labels(found) for name, found in harness.extracted(self.definition, texts).items()}

    def right_options(self, labels: np.ndarray) -> np.ndarray:
        """Returns the right options; zeros where there is one continuation, the right text."""
        return np.zeros(len(labels), dtype=np.int64) if generates(self._definition) else labels

    @property
    def _definition(self) -> dict[str, Any]:
        return harness.definition(self.definition)

    def _settings(self) -> list[Any]:
        return [*super()._settings(), self.new_tokens]

    def _labels(self, answers: list[Any]) -> np.ndarray:
        if not generates(self._definition):
            return super()._labels(answers)
        return np.array([harness.normalized_text(self.definition, text) for text in answers], dtype=str)


def generates(definition: dict[str, Any]) -> bool:
    """Returns whether answers are generated by a definition."""
    return definition.get("output_type", "generate_until") == "generate_until"


class GSM8K(Written):
    """Grade-school arithmetic in words, five worked examples in front; the answer is generated and a number cut out.

    Answers are those of lm-eval's filter `flexible-extract`, the last number; beside them `strict` are those of
    `strict-match`, the number after "####". Where there is none, both say "[invalid]", so that a model which never
    writes "####" would be called stable by the strict filter whatever it computes. Answers and labels are normalized
    as lm-eval's exact_match does.
    """

    name = "gsm8k"
    metric = "exact_match"
    repository, config = "openai/gsm8k", "main"
    definition = "gsm8k/gsm8k.yaml"

    def answers(self, network: Any, processor: Any, examples: Split, batch_size: int, precision: str) -> Answers:
        """Returns the numbers in the generated texts, as strings [examples]; what is generated has no loss."""
        numbers = self.written(network, processor, examples, batch_size, precision)
        return {"predictions": numbers["flexible-extract"], "strict": numbers["strict-match"]}


LANGUAGE_TASKS: tuple[type[Language], ...] = (
    declare(
        Language, "hellaswag", "How does a scene go on? Four endings.", reported="validation",
        repository="Rowan/hellaswag", config="default", definition="hellaswag/hellaswag.yaml",
    ),
    declare(
        Language, "winogrande",
        "Which of two names does a gap stand for? It is in the context, and the rest of the sentence is scored.",
        repository="allenai/winogrande", config="winogrande_xl", definition="winogrande/default.yaml",
        reported="validation",
    ),
    declare(
        Language, "arc_easy", "School science questions, the easy set.",
        repository="allenai/ai2_arc", config="ARC-Easy", definition="arc/arc_easy.yaml",
    ),
    declare(
        Language, "arc_challenge", "School science questions, the challenge set.",
        repository="allenai/ai2_arc", config="ARC-Challenge", definition="arc/arc_challenge.yaml",
    ),
    declare(
        Language, "openbookqa", "Elementary science questions that need a known fact.",
        repository="allenai/openbookqa", config="main", definition="openbookqa/openbookqa.yaml",
    ),
    PIQA, MMLU, GSM8K,
)  # fmt: skip


def _evenly(rows: pd.DataFrame, count: int) -> pd.DataFrame:
    """Returns at most `count` rows at even distances, so that no order of the data set matters."""
    return rows.iloc[np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(int)]


def _in_turn(rows: pd.DataFrame) -> pd.DataFrame:
    """Returns the first question of every subject, then the second of every subject, and so on."""
    return rows.iloc[np.argsort(rows.groupby("subject").cumcount().to_numpy(), kind="stable")]


@cache
def _content(split: str, repository: str, config: Any, data_root: Path | None, options: str) -> str:
    """Returns a digest of the rows of a split, whose cells may be lists."""
    rows = hub.frames(repository, config, data_root, options)[split]
    return hashlib.sha256(rows[sorted(rows.columns)].to_json(orient="values").encode()).hexdigest()
