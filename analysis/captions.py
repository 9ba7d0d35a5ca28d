"""What a figure or table says about the rows it was made from."""

import pandas as pd

from analysis.labels import ordered_curves, ordered_tasks, task_name


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


def without_heads(rows: pd.DataFrame) -> list[str]:
    """The curves of methods that remove no heads: a ratio asks for some, and at no ratio does one go."""
    asked = (rows["ratio"] * rows["heads_total"]).round() > 0  # of few heads a small ratio may ask for none
    most = rows[asked].groupby("curve")["heads_removed"].max()
    return [curve for curve in ordered_curves(rows) if most.get(curve, 1) == 0]


def removed_words(rows: pd.DataFrame) -> str:
    """What an axis of ratios counts, in percent: heads, or attention weights where methods remove no heads."""
    return f"{'attention weights' if without_heads(rows) else 'heads'} removed (%)"


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
