"""Whether HIS and AE say the same thing about the heads (the form of tables 7 and 8)."""

import numpy as np
import pandas as pd

from analysis.data.scores import load_scores
from analysis.errors import Unavailable
from analysis.registry import Table
from analysis.stats.pairing import one_calibration_size
from analysis.tables.beside import BLANK_NOTE, OURS, PAPER, Printed, missing_tasks
from analysis.text.captions import caption
from analysis.text.labels import task_name
from analysis.text.numbers import number

# The paper's column -> its name for readers; u is HIS divided by its sum over all heads, v is AE.
MOMENTS = {
    "mean_u_his": "E[u]",
    "mean_v_ae": "E[v]",
    "cov_uv": "Cov(u, v)",
    "mean_inner_product": "E[uv]",
    "correlation": "correlation",
}


def orthogonality_table(rows: pd.DataFrame, printed: Printed, heads: str) -> Table:
    """Returns means over seeds of statistics over all heads of the model, the paper's above ours.

    Args:
        rows: of any criteria and tasks.
        printed: what the paper prints.
        heads: how many the paper's model has, for readers.

    Raises:
        Unavailable: no rows of his on any of the tasks, several calibration sizes or curves, or no scores.
    """
    rows = rows[(rows["criterion"] == "his") & rows["task"].isin(printed.tasks)]
    if rows.empty:
        raise Unavailable(f"there are no rows of his on {printed.kind}")
    runs = one_calibration_size(rows).drop_duplicates("run_id")
    if runs.duplicated(["task", "seed"]).any():
        raise Unavailable(f"it cannot choose between several curves: {', '.join(sorted(runs['curve'].unique()))}")
    ours = {str(task): _mean_over_seeds(part) for task, part in runs.groupby("task")}
    nothing = {**dict.fromkeys(MOMENTS, np.nan), "seeds": 0}
    theirs = printed.numbers.set_index("task")
    lines = []
    for task in printed.tasks:
        own = ours.get(task, nothing)
        lines += [
            {"task": task, "statistic": name, PAPER: theirs.loc[task, name], OURS: own[name], "seeds": own["seeds"]}
            for name in MOMENTS
        ]
    data = pd.DataFrame(lines)
    text = (
        f"Orthogonality, beside the paper's table {printed.table} ({printed.model}, {heads} heads): {caption(rows)}. "
        "u: HIS divided by its sum over all heads; v: AE; moments over the heads, mean over seeds. "
    )
    return Table(_shown(data), data, f"{text}{BLANK_NOTE}.{missing_tasks(rows, printed.tasks)}")


def orthogonality(his: np.ndarray, ae: np.ndarray) -> dict[str, float]:
    """Returns the statistics of tables 7 and 8 of two scores [heads]; the correlation is NaN where one is constant."""
    u, v = his / his.sum(), ae
    covariance = float(np.mean(u * v) - u.mean() * v.mean())
    deviations = float(u.std() * v.std())
    correlation = covariance / deviations if deviations > 0 else np.nan
    moments = (float(u.mean()), float(v.mean()), covariance, float(np.mean(u * v)), correlation)
    return dict(zip(MOMENTS, moments, strict=True))


def _mean_over_seeds(runs: pd.DataFrame) -> dict[str, float]:
    seeds = []
    for row in runs.to_dict("records"):
        values = load_scores({"path": row["path"]}).values
        if "ae" not in values or "his" not in values:
            raise Unavailable(f"the score file of {row['run_id']} has no his or no ae")
        seeds.append(orthogonality(values["his"], values["ae"]))
    return {**pd.DataFrame(seeds).mean().to_dict(), "seeds": len(seeds)}


def _shown(data: pd.DataFrame) -> pd.DataFrame:
    lines = []
    for task, part in data.groupby("task", sort=False):
        for side in (PAPER, OURS):
            values = part.set_index("statistic")[side]
            cells = {words: number(values[name], ".2E") for name, words in MOMENTS.items()}
            lines.append({"task": task_name(str(task)), "numbers": side, **cells})
    return pd.DataFrame(lines)
