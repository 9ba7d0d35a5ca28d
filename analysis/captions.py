"""What a figure or table says about the rows it was made from."""

import pandas as pd

from analysis.labels import ordered_tasks, task_name


def caption(rows: pd.DataFrame) -> str:
    """Model, task, examples, seeds and calibration size of these rows, and whether jobs are missing."""
    parts = [
        f"model {_listed(rows['model'])}",
        _tasks(rows["task"]),
        _examples(rows),
        f"{_seeds(rows['seed'])}",
        f"calibration size {_listed(rows['calibration_size'])}",
    ]
    return ", ".join(parts) + _incomplete(rows)


def percent(ratio: float) -> str:
    """A ratio as people read it: 0.3 -> 30 %."""
    return f"{100 * ratio:g} %"


def _tasks(tasks: pd.Series) -> str:
    names = [task_name(task) for task in ordered_tasks(tasks)]
    return f"task{'s' * (len(names) > 1)} {', '.join(names)}"


def _examples(rows: pd.DataFrame) -> str:
    """How many examples of the report split; for several tasks the fewest and the most."""
    counts = rows["examples"]
    if rows["task"].nunique() < 2 or counts.nunique() < 2:
        return f"{_listed(counts)} examples"
    return f"{counts.min()} to {counts.max()} examples a task"


def _seeds(seeds: pd.Series) -> str:
    count = seeds.nunique()
    return f"{count} seed{'s' * (count > 1)} ({_listed(seeds)})"


def _listed(values: pd.Series) -> str:
    unique = sorted(values.unique())
    if len(unique) > 6:
        return f"{unique[0]} to {unique[-1]}"
    return ", ".join(str(value) for value in unique)


def _incomplete(rows: pd.DataFrame) -> str:
    cells = rows.drop_duplicates(["experiment", "model", "task"])
    finished, declared = cells["jobs_finished"].sum(), cells["jobs_declared"].sum()
    return f"; incomplete: {finished} of {declared} jobs" if finished < declared else ""
