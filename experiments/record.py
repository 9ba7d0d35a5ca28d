"""From the record of a run back to the job that it was."""

import re
import shlex
from collections.abc import Sequence

from hydra import compose

from experiments.job import COMMAND, Job, workbench
from experiments.schema import to_config
from hies.errors import HiesError
from hies.runs import files as results
from hies.runs.files import Row

PLAIN = re.compile(r"\+{0,2}(?!hydra)[a-z][\w./@]*=.*", re.DOTALL)
PACKED_ROOT = "data_root=$HIES_DATA"  # as a pack writes it; the same is the default


def recorded_overrides(command: str) -> list[str]:
    """The overrides of a recorded command, of which nothing else is taken and nothing is executed.

    Raises:
        HiesError: it is no command of experiments.run, or holds more than plain overrides. A record may come from
            somebody else: it must not read the environment, nor say how Hydra runs.
    """
    try:
        words = shlex.split(command)
    except ValueError:  # a quotation without an end
        words = []
    start = COMMAND.split()
    if words[: len(start)] != start:
        raise HiesError(f"The command of the rows is {command!r}; only one that begins with {COMMAND!r} is repeated.")
    overrides = [word for word in words[len(start) :] if word != PACKED_ROOT]
    for word in overrides:
        if "${" in word or not PLAIN.fullmatch(word):
            raise HiesError(f"The command of the rows holds {word!r}; only overrides of the form key=value are taken.")
    return overrides


def job_of(rows: Sequence[Row], further: Sequence[str]) -> Job:
    """The job that these rows are of, with further overrides; Hydra must be initialised.

    Raises:
        HiesError: the overrides make another run now; the sentence says what differs, if that can be told.
    """
    overrides = [*recorded_overrides(rows[0]["command"]), *further]
    job = Job(to_config(compose("config", overrides)), tuple(overrides))
    if job.run_id != rows[0]["run_id"]:
        raise HiesError(
            f"The command of {rows[0]['run_id']} makes another run now, {job.run_id}: {_what_differs(job, rows)}."
        )
    return job


def _what_differs(job: Job, rows: Sequence[Row]) -> str:
    row, config = rows[0], job.config
    described = job.describe()  # whose parameters are the criterion's knobs; those of a row are the model's weights
    now = {**described.pop("parameters"), **config.sparsity.knobs, **described}
    now["calibration_size"] = config.calibration.size
    keys = [key for key in now if key in row and key not in ("run_id", "command") and now[key] != row[key]]
    if keys:
        return ", ".join(f"{key} is {now[key]} where the rows have {row[key]}" for key in keys)
    if missing := sorted({row["ratio"] for row in rows} - {0.0, *config.sparsity.ratios}):
        return f"sparsity.ratios lacks {', '.join(map(str, missing))}"
    if (data := workbench(config).content) != row["data"]:
        return f"the data of task={config.task.name} have the digest {data} where the rows have {row['data']}"
    if row["versions"] != results.versions():
        return "the code, its settings or the weights; the installed versions are others too"
    return "the code, its settings or the model's weights"
