"""The diagnosis beside the rows: attention over the tokens of an example that the pruned model loses."""

import sys
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from analysis.errors import Unavailable


@dataclass(frozen=True)
class Diagnosis:
    """What `experiments.diagnose` found with HIS.

    ratio_before, ratio: the neighbouring ratios between which quality drops most. removed: the heads gone at `ratio`,
    [heads of the model]. tokens: of the example, [tokens]. attention: of the unpruned model, mean over the queries,
    [heads of the model, tokens]. label, unpruned, pruned: the names of the right class and of both answers.
    example: its index in the report split. checkpoint: the digest of the weights, as in the rows.
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


def file_name(model: str, task: str, seed: int | str) -> str:
    """The name of the diagnosis of one model, task and seed."""
    return f"diagnosis-{model}-{task}-s{seed}.npz"


def load_diagnosis(row: Mapping[Any, Any]) -> Diagnosis:
    """The diagnosis of the model and task of a row (any row of `load`), of the lowest seed that has one.

    Raises:
        Unavailable: there is none, with the command that makes it, or it cannot be read.
    """
    folder = Path(row["path"]).parent
    there = list(folder.glob(file_name(row["model"], row["task"], "*")))
    if not there:
        command = row["command"].replace("experiments.run", "experiments.diagnose")
        raise Unavailable(f"{folder} holds no diagnosis; `{command}` makes it")
    path = min(there, key=_seed)
    try:
        with np.load(path, allow_pickle=False) as arrays:
            found = _read(arrays)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        raise Unavailable(f"the diagnosis {path} cannot be read") from None
    if found.checkpoint != row["checkpoint"]:
        raise Unavailable(f"the diagnosis {path} is of the checkpoint {found.checkpoint}, the rows of another")
    return found


def _seed(path: Path) -> int:
    digits = path.stem.rpartition("-s")[2]
    return int(digits) if digits.isdigit() else sys.maxsize


def _read(arrays: Any) -> Diagnosis:
    values = {field.name: arrays[field.name] for field in fields(Diagnosis)}
    plain = {name: value.item() if value.ndim == 0 else value for name, value in values.items()}
    found = Diagnosis(**{**plain, "tokens": [str(token) for token in values["tokens"]]})
    if found.attention.shape != (len(found.removed), len(found.tokens)):
        raise ValueError("attention does not fit heads and tokens")
    return found
