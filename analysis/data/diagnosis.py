"""The diagnosis beside the rows: attention over the tokens of an example that the pruned model loses."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from analysis.errors import Unavailable
from hies.runs import folders


@dataclass(frozen=True)
class Diagnosis:
    """What `experiments.diagnose` writes about HIS.

    Attributes:
        seed: of the run.
        ratio_before: the lower of the neighbouring ratios between which quality drops most.
        ratio: the higher of them.
        removed: which heads are removed at `ratio`, boolean [heads of the model].
        tokens: of the example, [tokens].
        attention: of the unpruned model, mean over the queries, [heads of the model, tokens].
        label: the name of the right class.
        unpruned: what the unpruned model answers.
        pruned: what the pruned model answers.
        example: its index in the report split.
        checkpoint: the digest of the weights, as in the rows.
    """

    seed: int
    ratio_before: float
    ratio: float
    removed: np.ndarray
    tokens: list[str]
    attention: np.ndarray
    label: str
    unpruned: str
    pruned: str
    example: int
    checkpoint: str


def diagnosis_file(model: str, task: str, seed: int | str) -> str:
    """Returns the name of the diagnosis of one model, task and seed."""
    return f"diagnosis-{model}-{task}-s{seed}.npz"


def load_diagnosis(row: Mapping[Any, Any]) -> Diagnosis:
    """Returns the diagnosis of the model and task of a row (any row of `load`), of the lowest seed that has one.

    Raises:
        Unavailable: there is none, with the command that makes it, or it cannot be read.
    """
    folder = Path(row["path"]).parent
    there = list(folder.glob(diagnosis_file(row["model"], row["task"], "*")))
    if not there:
        command = row["command"].replace("experiments.run", "experiments.diagnose")
        raise Unavailable(f"{folder} holds no diagnosis; `{command}` makes it")
    path = min(there, key=_seed)
    try:
        diagnosis = _read(folders.read_npz(path))
    except Exception:  # damaged bytes raise errors of many kinds
        raise Unavailable(f"the diagnosis {path} cannot be read") from None
    if diagnosis.checkpoint != row["checkpoint"]:
        raise Unavailable(f"the diagnosis {path} is of the checkpoint {diagnosis.checkpoint}, the rows of another")
    return diagnosis


def _seed(path: Path) -> int:
    digits = path.stem.rpartition("-s")[2]
    return int(digits) if digits.isdigit() else sys.maxsize


def _read(arrays: dict[str, Any]) -> Diagnosis:
    values = {field.name: arrays[field.name] for field in fields(Diagnosis)}
    plain = {name: value.item() if value.ndim == 0 else value for name, value in values.items()}
    diagnosis = Diagnosis(**{**plain, "tokens": [str(token) for token in values["tokens"]]})
    if diagnosis.attention.shape != (len(diagnosis.removed), len(diagnosis.tokens)):
        raise ValueError("attention does not fit heads and tokens")
    return diagnosis
