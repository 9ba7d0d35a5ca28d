"""Rows that W&B holds -> row files below `--results`, where everything else finds them as if they were made here."""

import contextlib
import json
import os
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from itertools import zip_longest
from pathlib import Path
from typing import Any

from hies.errors import HiesError, first_line
from hies.runs import folders as runs
from hies.runs.files import read_run
from hies.runs.schema import LOSSES, BadRows

ROW_FILE = "row_file"  # in a run's config: the text of its row file
ARTIFACT = "scores"  # the type of the artifact that holds its arrays
PROJECT = re.compile(r"[\w.-]+/[\w.-][\w. -]*")
LONGEST_NAME = 200  # bytes of an experiment or a run id; a file system may take no more
PAGE = 100  # runs in one request
# W&B tries for hours by default; a person at a terminal is told soon.
IMPATIENT = {
    "WANDB_HTTP_TIMEOUT": "20",
    "WANDB__GRAPHQL_RETRY_MAX": "1",
    "WANDB_ERROR_REPORTING": "false",
    "WANDB_SILENT": "true",
}
# What the same job may have otherwise on another machine, or at another time.
ELSEWHERE = ("score_seconds", "eval_seconds", "digest", "rows", "command", "versions", "revision")


def fetch(project: str, results_dir: Path, experiment: str | None = None) -> int:
    """Writes the runs of a W&B project, or of one experiment, that are not in `results_dir` yet; returns how many.

    A run that is there stays as it is. What cannot be trusted is left out, with a RowsWarning.

    Raises:
        HiesError: no key, no server, no such project, or a folder that takes no files.
    """
    if not PROJECT.fullmatch(project):
        raise HiesError(f"--project={project} is no project; use ENTITY/NAME, as in the address of its W&B page.")
    texts = cache(_texts)
    left_out: Counter[str] = Counter()
    written = 0
    for run in _remote(project, experiment):
        try:
            written += _take(run, results_dir, texts)
        except BadRows as problem:
            left_out[str(problem)] += 1
        except OSError as problem:
            raise HiesError(f"--results={results_dir} takes no files ({problem.strerror}); name a folder.") from None
    for why, count in left_out.items():
        runs.warn_of_rows(
            f"--project={project}: a run {why} and is left out{f' ({count} such runs)' if count > 1 else ''}."
        )
    return written


def _remote(project: str, experiment: str | None) -> Iterator[Any]:
    """The project's runs with their configs, `PAGE` of them a request."""
    os.environ |= {**IMPATIENT, **os.environ}
    import wandb

    try:
        yield from wandb.Api().runs(
            project,
            filters={} if experiment is None else {"group": experiment},
            per_page=PAGE,
            lazy=False,  # else every config would be a request of its own
            include_sweeps=False,
        )
    except wandb.errors.UsageError:
        raise HiesError("--from=wandb finds no API key; set WANDB_API_KEY, or run `wandb login`.") from None
    except Exception as error:  # of many kinds, not all of them among the client's public ones
        raise HiesError(
            f"--project={project} cannot be read from W&B ({first_line(error)}); check its name, the API key and the "
            "network."
        ) from None


def _take(run: Any, results_dir: Path, texts: Callable[[Path], dict[str, str]]) -> bool:
    """Writes a run unless it is there; tells whether it did."""
    text = run.config.get(ROW_FILE)
    if not isinstance(text, str):
        raise BadRows(f"has no row file (config.{ROW_FILE})")
    path = _path(text, results_dir)
    folder, run_id = path.parent, path.stem
    if folder.exists() and not folder.is_dir():
        raise BadRows(f"names {folder.name} as its experiment, which is a file,")
    packed, here = runs.is_packed(folder), texts(folder).get(run_id)
    if here is not None and _differ(path, here, text):
        runs.warn_of_rows(f"{path} differs from what W&B holds of it; the local file is used.")
    if packed and here is None:
        raise BadRows(f"belongs to {folder}, which is packed,")
    if here is None or (here == text and not packed and not path.with_suffix(".npz").exists()):
        _write(run, path, text)  # also where the scores could not be had before
        texts(folder)[run_id] = text
    return here is None


def _path(text: str, results_dir: Path) -> Path:
    """The place of a row file by the names that it gives, which are no path to anywhere else."""
    try:
        row = json.loads(text.split("\n", 1)[0])
        experiment, run_id = row["experiment"], row["run_id"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise BadRows("has a row file that cannot be read") from None
    if not all(runs.is_name(name) and len(name.encode()) <= LONGEST_NAME for name in (experiment, run_id)):
        raise BadRows("has an experiment or a run id that is no plain name")
    if experiment in runs.NO_EXPERIMENTS:
        raise BadRows(f"names {experiment} as its experiment, a folder that holds other files,")
    return results_dir / experiment / f"{run_id}.jsonl"


def _texts(folder: Path) -> dict[str, str]:
    """Run id -> row file of the runs that are here; of a folder that cannot be read, whoever reads it warns."""
    with contextlib.suppress(runs.BadFile):
        return {path.stem: text for path, text in runs.texts(folder)}
    return {}


def _differ(path: Path, here: str, there: str) -> bool:
    """Whether two row files of one job differ in what the job came to."""
    try:
        pairs = zip_longest(_results(path, here), _results(path, there), fillvalue=dict[str, Any]())
        return here != there and any(_known_to(one, other) != _known_to(other, one) for one, other in pairs)
    except BadRows:
        return True


def _results(path: Path, text: str) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key not in ELSEWHERE} for row in read_run(path, text)]


def _known_to(row: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """The row without losses that the other lacks, as rows of before they were measured."""
    return {
        key: value for key, value in row.items() if key not in LOSSES.values() or None not in (value, other.get(key))
    }


def _write(run: Any, path: Path, text: str) -> None:
    """Arrays, then rows, as a job writes them: a run is there exactly when its row file has its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=path.parent) as folder:
        new = Path(folder) / path.name
        rows = read_run(new, text)  # BadRows, before anything is fetched for it
        try:
            _fetch_arrays(run, new, [row["ratio"] for row in rows])
        except Exception as error:  # of W&B, of the network, of whoever wrote the file: rows do without
            path.with_suffix(".npz").unlink(missing_ok=True)  # arrays without rows are of a job that was killed
            why = first_line(error)
            runs.warn_of_rows(f"{path.stem}: its scores cannot be had from W&B ({why}); heat maps leave it out.")
        else:
            new.with_suffix(".npz").replace(path.with_suffix(".npz"))
        new.write_bytes(text.encode())
        new.replace(path)


def _fetch_arrays(run: Any, new: Path, ratios: list[float]) -> None:
    """Puts the run's arrays beside `new`, its row file to be; any exception means that they are not to be used."""
    name = new.with_suffix(".npz").name
    artifacts = [artifact for artifact in run.logged_artifacts() if artifact.type == ARTIFACT]
    if not artifacts:
        raise ValueError("none are there")
    entry = artifacts[-1].get_entry(name)
    if entry.path != name or entry.ref is not None:
        raise ValueError("they lie elsewhere")  # maybe in a file of this machine
    entry.download(root=str(new.parent), skip_cache=True)
    arrays = runs.read_arrays(new)
    if arrays["ratios"].tolist() != ratios:
        raise ValueError("they belong to other ratios")
