"""What a figure or table says about the rows it was made from."""

import pandas as pd

from analysis.text.labels import ordered_curves, ordered_tasks, task_name


def caption(rows: pd.DataFrame) -> str:
    """Returns model, task, examples, seeds and calibration size of these rows, and whether jobs are missing."""
    tasks = [task_name(task) for task in ordered_tasks(rows["task"])]
    seeds = rows["seed"].nunique()
    parts = [
        f"model {_listed(rows['model'])}",
        f"task{'s' * (len(tasks) > 1)} {', '.join(tasks)}",
        _examples(rows["examples"], len(tasks)),
        f"{seeds} seed{'s' * (seeds > 1)} ({_listed(rows['seed'])})",
        f"calibration size {_listed(rows['calibration_size'])}",
    ]
    return ", ".join(parts) + _incomplete(rows)


def heading(rows: pd.DataFrame) -> str:
    """Returns model and task of a figure of one task, for its title."""
    return f"{rows['model'].iloc[0]} on {task_name(rows['task'].iloc[0])}"


def without_heads(rows: pd.DataFrame) -> list[str]:
    """Returns the curves of methods that remove no heads, not even at ratios at which some should go."""
    some = (rows["ratio"] * rows["heads_total"]).round() > 0  # of few heads, none may be due at a small ratio
    most = rows[some].groupby("curve")["heads_removed"].max()
    return [curve for curve in ordered_curves(rows) if most.get(curve, 1) == 0]


def removed_words(rows: pd.DataFrame) -> str:
    """Returns what an axis of ratios counts, in percent: heads, or attention weights where methods remove no heads."""
    return f"{'attention weights' if without_heads(rows) else 'heads'} removed (%)"


def _examples(counts: pd.Series, tasks: int) -> str:
    """How many examples of the report split; for several tasks the fewest and the most."""
    if tasks < 2 or counts.nunique() < 2:
        return f"{_listed(counts)} examples"
    return f"{counts.min()} to {counts.max()} examples a task"


def _listed(values: pd.Series) -> str:
    unique = sorted(values.unique())
    return f"{unique[0]} to {unique[-1]}" if len(unique) > 6 else ", ".join(map(str, unique))


def _incomplete(rows: pd.DataFrame) -> str:
    cells = rows.drop_duplicates(["experiment", "model", "task"])
    finished, declared = cells["jobs_finished"].sum(), cells["jobs_declared"].sum()
    return f"; incomplete: {finished} of {declared} jobs" if finished < declared else ""
