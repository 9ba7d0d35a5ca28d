"""MM-Vet: open questions about images, whose answers a judge model grades (Yu et al. 2023, arXiv 2308.02490).

Its 218 questions are all reported, as in the literature, so that none is left to calibrate on: calibration and
selection examples are those of VizWiz-VQA. Which judge grades is said by the environment, see
`hies.tasks.vqa.judge`; without one the quality is undefined, and answers and stability are there all the same.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from hies.progress import ProgressBar
from hies.storage import digest
from hies.tasks import hub
from hies.tasks.checks import check_cells
from hies.tasks.splits import Split, Splits
from hies.tasks.vqa import vizwiz
from hies.tasks.vqa.judge import Judge
from hies.tasks.vqa.visual import VisualTask

MMVET_REPOSITORY = "lmms-lab/MMVet"


class MMVet(VisualTask):
    """Answers of any length; labels are the reference answers, in which <AND> and <OR> join parts."""

    name: ClassVar[str] = "mmvet"
    metric: ClassVar[str] = "judged"
    max_new_tokens: ClassVar[int] = 512

    @property
    def judge(self) -> str | None:
        """The model that grades, as the environment names it now."""
        judge = Judge.from_environment()
        return None if judge is None else judge.model

    def identity(self, data_root: Path | None) -> str:
        """Returns a digest of the files in use, MM-Vet's and those that heads are scored on."""
        files = hub.split_identity(MMVET_REPOSITORY, "test", data_root)
        return digest([files, vizwiz.vizwiz_identity(data_root), self.max_new_tokens])

    def load(self, data_root: Path | None, cache_dir: Path) -> Splits:
        """Returns all of MM-Vet to report, and examples of VizWiz-VQA with the answer that most people gave."""
        train, selection = (
            replace(split, labels=np.array([vizwiz.most_common(label) for label in split.labels], dtype=str))
            for split in vizwiz.holdout(data_root)
        )
        rows = hub.read_split(MMVET_REPOSITORY, "test", ("image", "question", "answer"), data_root)
        where = f"the split 'test' of {MMVET_REPOSITORY}"
        for column in ("question", "answer"):
            check_cells(column, rows[column], where, (str,))
        inputs = {"image": hub.image_files(rows["image"], where), "question": rows["question"].tolist()}
        return Splits(train, selection, Split(inputs, rows["answer"].to_numpy(dtype=str)))

    def graded(self, examples: Split, answers: np.ndarray, cache_dir: Path) -> np.ndarray:
        """Returns the judge's grades from 0 to 1, float64 [examples]; NaN without a judge."""
        judge = Judge.from_environment()
        if judge is None:
            return np.full(len(answers), np.nan)
        cases = list(zip(examples.inputs["question"], examples.labels.tolist(), answers.tolist(), strict=True))
        bar = ProgressBar(cases, "grading", unit="answer", leave=False)
        grades = [judge.grade(question, truth, answer, cache_dir) for question, truth, answer in bar]
        return np.array(grades, dtype=np.float64)

    def notes(self, data_root: Path | None) -> dict[str, Any]:
        """Returns where calibration examples come from, and which model grades."""
        source = f"{vizwiz.VIZWIZ_REPOSITORY} {vizwiz.calibration_split(data_root)}[:{vizwiz.FOR_CALIBRATION}]"
        return {"calibration_source": source, "judge": self.judge}
