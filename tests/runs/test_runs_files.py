import hashlib
import json

import numpy as np
import pytest

from hies.runs.files import read_arrays, read_run, write_run
from hies.runs.schema import REQUIRED, SCHEMA, BadRows, sealed

ROW = {
    "schema": SCHEMA, **dict.fromkeys(REQUIRED[:-1], ""), "seed": 0, "calibration_size": 32, "heads_total": 4,
    "heads_removed": 0, "ratio": 0,
    "examples": 5, "value": 0.5, "quality": 50.0, "stability": 100.0, "score_seconds": 1.0, "eval_seconds": 1.0,
    "mask": {}, "versions": {}, "parameters": 10, "flops": 10, "min_heads_per_layer": 0, "run_id": "run",
    "experiment": "glue",
}  # fmt: skip


def test_a_written_run_is_sealed_and_read_back_without_its_seal(tmp_path):
    path = tmp_path / "glue" / "run.jsonl"
    write_run(path, [ROW, {**ROW, "ratio": 0.5}], {"ratios": np.array([0, 0.5])})
    first, second = path.read_text().splitlines()
    text = json.dumps({"schema": SCHEMA, **ROW, "rows": 2})
    assert json.loads(first)["digest"] == hashlib.sha256(text.encode()).hexdigest()[:16]
    assert sealed(json.loads(first)) == first
    rows = read_run(path, path.read_text())
    assert rows == [{**ROW, "ratio": ratio, "path": str(path)} for ratio in (0, 0.5)]
    with pytest.raises(BadRows, match=r"was changed after it was written \(line 2\)"):
        read_run(path, f"{first}\n{second.replace('50.0', '60.0')}\n")
    with pytest.raises(BadRows, match="has 1 rows where 2 were written"):
        read_run(path, first)


def _stop(*_, **__):
    raise ZeroDivisionError


@pytest.mark.parametrize(("step", "left"), [("write_text", 1), ("replace", None)])
def test_rows_are_never_beside_the_arrays_of_another_computation(tmp_path, monkeypatch, step, left):
    path = tmp_path / "glue" / "run.jsonl"
    write_run(path, [ROW], {"ratios": np.array([0]), "scores": np.array([1])})
    rename = type(path).replace
    stopped = {
        "write_text": _stop,  # the disk is full after the arrays
        "replace": lambda old, new: (
            rename(old, new) if new.suffix == ".npz" else _stop()
        ),  # killed after their renaming
    }
    monkeypatch.setattr(type(path), step, stopped[step])
    with pytest.raises(ZeroDivisionError):
        write_run(path, [ROW], {"ratios": np.array([0]), "scores": np.array([2])})
    assert path.exists() == (left is not None)
    assert left is None or read_arrays(path)["scores"] == [left]
