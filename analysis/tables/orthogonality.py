"""Whether HIS and AE say the same thing about the heads (the form of tables 7 and 8)."""

import numpy as np
import pandas as pd

from analysis.captions import caption
from analysis.errors import Unavailable
from analysis.labels import task_name
from analysis.registry import Table
from analysis.scores import load_scores
from analysis.tables.beside import BLANK, OURS, PAPER, Printed, missing_tasks, number, one_calibration_size

# The paper's column -> its name for readers; u is HIS divided by its sum over all heads, v is AE.
STATISTICS = {
    "mean_u_his": "E[u]",
    "mean_v_ae": "E[v]",
    "cov_uv": "Cov(u, v)",
    "mean_inner_product": "E[uv]",
    "correlation": "correlation",
}


def orthogonality_table(rows: pd.DataFrame, printed: Printed, heads: str) -> Table:
    """Means over seeds of statistics over all heads of the model, the paper's above ours.

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
    told = printed.numbers.set_index("task")
    data = pd.DataFrame(
        [
            {"task": task, "statistic": name, PAPER: told.loc[task, name], **_side(ours.get(task), name)}
            for task in printed.tasks
            for name in STATISTICS
        ]
    )
    text = (
        f"Orthogonality, beside the paper's table {printed.table} ({printed.model}, {heads} heads): {caption(rows)}. "
    )
    text += "u: HIS divided by its sum over all heads; v: AE; moments over the heads, mean over seeds. "
    return Table(_shown(data), data, f"{text}{BLANK}.{missing_tasks(rows, printed.tasks)}")


def orthogonality(his: np.ndarray, ae: np.ndarray) -> dict[str, float]:
    """The statistics of tables 7 and 8 from both scores of all heads; the correlation is NaN where one is constant."""
    u, v = his / his.sum(), ae
    covariance = float(np.mean(u * v) - u.mean() * v.mean())
    spread = float(u.std() * v.std())
    return {
        "mean_u_his": float(u.mean()),
        "mean_v_ae": float(v.mean()),
        "cov_uv": covariance,
        "mean_inner_product": float(np.mean(u * v)),
        "correlation": covariance / spread if spread > 0 else np.nan,
    }


def _mean_over_seeds(runs: pd.DataFrame) -> dict[str, float]:
    found = []
    for row in runs.to_dict("records"):
        values = load_scores({"path": row["path"]}).values
        if "ae" not in values or "his" not in values:
            raise Unavailable(f"the score file of {row['run_id']} has no his or no ae")
        found.append(orthogonality(values["his"], values["ae"]))
    return {**pd.DataFrame(found).mean().to_dict(), "seeds": len(found)}


def _side(ours: dict[str, float] | None, name: str) -> dict[str, float]:
    return {OURS: ours[name], "seeds": ours["seeds"]} if ours else {OURS: np.nan, "seeds": 0}


def _shown(data: pd.DataFrame) -> pd.DataFrame:
    lines = []
    for task, part in data.groupby("task", sort=False):
        for side in (PAPER, OURS):
            values = part.set_index("statistic")[side]
            cells = {words: number(values[name], ".2E") for name, words in STATISTICS.items()}
            lines.append({"task": task_name(str(task)), "numbers": side, **cells})
    return pd.DataFrame(lines)
