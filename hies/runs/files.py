"""The files of a run: one row a line in `results/<experiment>/<run id>.jsonl`; arrays, or a failure, beside it."""

import importlib.metadata
import json
import subprocess
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np

from hies.runs import folders
from hies.runs.schema import SCHEMA, SEAL, BadRows, Row, read_row, sealed
from hies.storage import remove_partials, replacing, write_arrays

PACKAGES = ("torch", "transformers", "datasets", "numpy", "scikit-learn")
FAILED = ".failed.json"


def run_path(results_dir: Path, experiment: str, run_id: str) -> Path:
    """Returns the row file of a run; its arrays lie beside it with the ending npz."""
    return results_dir / experiment / f"{run_id}.jsonl"


def write_run(path: Path, rows: list[Row], arrays: dict[str, np.ndarray]) -> None:
    """Writes arrays and rows: a run is finished exactly when its row file has its name. One process at a time."""
    lines = [sealed({"schema": SCHEMA, **row, "rows": len(rows), "digest": ""}) for row in rows]
    for file in (path, path.with_suffix(".npz")):
        remove_partials(file)
    with replacing(path) as new_rows, replacing(path.with_suffix(".npz")) as new_arrays:  # which get their name first
        write_arrays(new_arrays, {**arrays, "run_id": np.array(path.stem)})
        new_rows.write_text("\n".join(lines) + "\n", encoding="utf-8")
        path.unlink(missing_ok=True)  # rows of before are never beside arrays of now
    failure_path(path).unlink(missing_ok=True)


def failure_path(path: Path) -> Path:
    """Returns where the record of a failed run lies, given its row file."""
    return path.with_suffix(FAILED)


def write_failure(path: Path, error: str, command: str, trace: str | None = None) -> None:
    """Records that a run failed, beside where its rows would be; they replace the record once the run succeeds."""
    record = {"run_id": path.stem, "error": error, "command": command, **({"traceback": trace} if trace else {})}
    with replacing(failure_path(path)) as temporary:
        temporary.write_text(json.dumps(record, indent=1), encoding="utf-8")


def read_failure(path: Path) -> str | None:
    """Returns why the run of this row file failed, in a sentence; None where it left no record."""
    try:
        return str(json.loads(failure_path(path).read_text(encoding="utf-8"))["error"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        return f"{failure_path(path)} cannot be read"


def failed_command(path: Path) -> str:
    """Returns the command of a failed run, given its row file; nothing where its record does not say it."""
    try:
        return str(json.loads(failure_path(path).read_text(encoding="utf-8"))["command"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


@cache
def versions() -> dict[str, str]:
    """Returns the installed versions that a result may depend on."""
    return {package: importlib.metadata.version(package) for package in PACKAGES}


@cache
def revision() -> str | None:
    """Returns the commit of the source tree, with a plus sign if it has changes; None outside a repository."""
    here = Path(__file__).parent

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=here, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def read_run(path: Path, text: str) -> list[Row]:
    """Returns the rows of one finished job.

    Args:
        path: its row file.
        text: what is in it.

    Raises:
        BadRows: a garbled or changed line, a missing key, a wrong type or value, or other ratios than were written.
    """
    if not folders.is_name(run_id := path.stem):
        raise BadRows("has a name that is no run id")
    if "\N{REPLACEMENT CHARACTER}" in text:
        raise BadRows("is not in UTF-8")
    rows = [read_row(line, number) for number, line in enumerate(text.splitlines(), start=1)]
    if not rows or rows[0]["ratio"] != 0:
        raise BadRows("does not begin with the unpruned model (ratio 0)")
    if any(row["run_id"] != run_id for row in rows):
        raise BadRows("holds a run id that is not its name")
    _check_ratios(path, rows)
    # The folder's name counts: it is what --experiment and the names of the outputs speak of.
    added = {"experiment": path.parent.name, "path": str(path)}
    for row in rows:
        row.update(added)
        for key in SEAL:
            row.pop(key, None)
    return rows


def read_arrays(path: Path, names: tuple[str, ...] | None = None) -> dict[str, np.ndarray]:
    """Returns the arrays of a run by the path of its row file, as `folders.read_arrays` does; none without a file.

    Raises:
        BadRows: they cannot be trusted.
    """
    try:
        return _arrays(path, names)
    except FileNotFoundError:
        return {}


def _arrays(path: Path, names: tuple[str, ...] | None) -> dict[str, np.ndarray]:
    try:
        return folders.read_arrays(path, names)
    except folders.BadFile as problem:
        raise BadRows(f"has a score file ({problem.name}) that {problem.what}") from None


def _check_ratios(path: Path, rows: list[Row]) -> None:
    """A file cut off between two lines still parses; every row, or else the score file, knows how many there were."""
    ratios = [row["ratio"] for row in rows]
    if any(low >= high for low, high in pairwise(ratios)):
        raise BadRows("has ratios that do not rise from row to row")
    if not any("rows" in row for row in rows):
        _check_score_file(path, ratios)
    elif wrong := [row for row in rows if row.get("rows") != len(rows)]:
        raise BadRows(f"has {len(rows)} rows where {wrong[0].get('rows')} were written")


def _check_score_file(path: Path, ratios: list[float]) -> None:
    try:
        expected = _arrays(path, ("ratios",))["ratios"]
    except FileNotFoundError:
        return
    except KeyError:
        raise BadRows(f"has a score file ({folders.arrays_file(path).name}) without ratios") from None
    if expected.shape != (len(ratios),) or not np.allclose(expected, ratios, atol=1e-6):
        raise BadRows(f"has {len(ratios)} ratios where its score file has {expected.size}, or others")
