"""What a sweep came to: a table of quality by method and ratio, and the command that draws its rows."""

import json
import shlex
from collections.abc import Sequence
from math import isnan
from statistics import fmean

from tabulate import tabulate

from experiments.config.outside import CUSTOM
from experiments.sweep.job import Job
from hies.errors import printable
from hies.runs.files import Row
from hies.runs.schema import TOKEN_KEYS, BadRows

MOST_LINES = 40
OF_A_LINE = ("model", "task", "criterion", "seed", "sparsity.ratios", "sparsity.ratio")  # have a column, or several


def print_data(jobs: Sequence[Job]) -> None:
    """Prints a line on each data of one's own that jobs read: files, columns and splits."""
    for text in dict.fromkeys(job.config.task.description(job.data_root) for job in jobs):
        if text:
            print(printable(text), flush=True)


def print_summary(jobs: Sequence[Job]) -> None:
    """Prints the table of those jobs that have rows, and the command; nothing where none has."""
    finished = [(job, rows) for job in jobs if (rows := _rows_of(job))]
    if not finished:
        return
    lines = quality_lines(finished)
    ratios = sorted({ratio for cells in lines.values() for ratio in cells})
    shown = [
        [*names, len({seed for cell in cells.values() for seed in cell}), *(_cell(cells, ratio) for ratio in ratios)]
        for names, cells in [*lines.items()][:MOST_LINES]
    ]
    headers = ["model", "task", "method", "draws", *(f"{100 * ratio:g} %" for ratio in ratios)]
    print(f"Quality in percent by the share removed, mean over the draws:\n{_table(shown, headers)}")
    if len(lines) > MOST_LINES:
        print(f"and {len(lines) - MOST_LINES} more lines.")
    for line in token_lines(finished):
        print(line)
    config = jobs[0].config
    folder = shlex.quote(config.results_dir)
    print(f"To draw it: python -m analysis --experiment {config.name} --results {folder} --out {folder}")


def token_lines(finished: Sequence[tuple[Job, list[Row]]]) -> list[str]:
    """Returns for each task, and for all of several, the tokens that its options took, and those that lm-eval takes.

    A mask that several jobs share was computed once and counts once. Rows of before tokens were counted have none.
    """
    tokens: dict[str, dict[object, list[int]]] = {}
    for row in (row for _, rows in finished for row in rows if TOKEN_KEYS[0] in row):
        model = json.dumps(row["mask"]) if row["heads_removed"] or not row["ratio"] else (row["run_id"], row["ratio"])
        key = (row["checkpoint"], row["data"], row["precision"], model)
        tokens.setdefault(row["task"], {})[key] = [row[name] for name in TOKEN_KEYS]
    sums = {task: [sum(numbers) for numbers in zip(*each.values(), strict=True)] for task, each in tokens.items()}
    if len(sums) > 1:
        sums["all of them"] = [sum(numbers) for numbers in zip(*sums.values(), strict=True)]
    return [
        f"{name}: {computed:,} tokens computed for the reported options, where lm-eval computes {plain:,} "
        f"({100 * computed / plain:.0f} %)."
        for name, (computed, plain) in sums.items()
    ]


def quality_lines(finished: Sequence[tuple[Job, list[Row]]]) -> dict[tuple[str, ...], dict[float, dict[int, float]]]:
    """Returns a line for each model, task and method, and whatever else the jobs differ in but seed and ratios.

    Returns:
        (model, task, method) -> ratio -> seed -> quality in percent, NaN where it is undefined.
    """
    words = [dict(word.split("=", 1) for word in job.overrides if "=" in word) for job, _ in finished]
    keys = dict.fromkeys(key for given in words for key in given if key not in OF_A_LINE)
    varied = [key for key in keys if len({given.get(key) for given in words}) > 1]
    lines: dict[tuple[str, ...], dict[float, dict[int, float]]] = {}
    for (job, rows), given in zip(finished, words, strict=True):
        extra = [f"{key}={given[key]}" for key in varied if key in given]
        line = lines.setdefault((*line_of(job), ", ".join([criterion_of(job), *extra])), {})
        for row in rows:
            quality = float("nan") if row["quality"] is None else row["quality"]
            line.setdefault(row["ratio"], {})[job.config.seed] = quality
    return lines


def line_of(job: Job) -> tuple[str, str]:
    """Returns model and task, a variant of it (rte/after_mnli) as the command line chooses it."""
    name, choice = job.config.task.name, _choice(job, "task") or ""
    return job.config.model.name, choice if choice.partition("/")[0] == name else name


def criterion_of(job: Job) -> str:
    """Returns the criterion as the command line chooses it: two choices may be one criterion with other knobs."""
    return _choice(job, "criterion") or str(job.config.criterion.name)


def _choice(job: Job, group: str) -> str | None:
    words = [override.removeprefix(f"{group}=") for override in job.overrides if override.startswith(f"{group}=")]
    return words[-1] if words and words[-1] != CUSTOM else None


def _rows_of(job: Job) -> list[Row]:
    try:
        return job.rows()
    except (FileNotFoundError, BadRows):
        return []


def _cell(cells: dict[float, dict[int, float]], ratio: float) -> str:
    """The mean over the draws that have a number, and how many these are where some have none."""
    draws = {seed for cell in cells.values() for seed in cell}
    values = [value for value in cells.get(ratio, {}).values() if not isnan(value)]
    if not values:
        return "undefined" if ratio in cells else ""
    return f"{fmean(values):.1f}" + (f" ({len(values)})" if len(values) < len(draws) else "")


def _table(lines: list[list[object]], headers: list[str]) -> str:
    return "\n".join(map(printable, tabulate(lines, headers=headers, disable_numparse=True).splitlines()))
