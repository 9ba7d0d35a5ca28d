"""Table 7 of the paper: whether HIS and AE say the same thing about the heads."""

import numpy as np
import pandas as pd

from analysis import paper
from analysis.captions import caption
from analysis.errors import Unavailable
from analysis.labels import TASKS, task_name
from analysis.registry import Table, table
from analysis.scores import load_scores
from analysis.tables.beside import BLANK, MODEL, OURS, PAPER, missing_tasks, number, one_calibration_size

# The paper's column -> its name for readers; u is HIS divided by its sum over all heads, v is AE.
STATISTICS = {
    "mean_u_his": "E[u]",
    "mean_v_ae": "E[v]",
    "cov_uv": "Cov(u, v)",
    "mean_inner_product": "E[uv]",
    "correlation": "correlation",
}


@table(
    "table7",
    about="Orthogonality of HIS and AE over the heads, the paper's numbers (BERT-base) beside ours.",
    needs="rows and score files of his on GLUE tasks with one calibration size",
    per=("experiment", "model"),
)
def table7(rows: pd.DataFrame) -> Table:
    """Means over seeds of statistics over all heads of the model."""
    rows = rows[(rows["criterion"] == "his") & rows["task"].isin(TASKS)]
    if rows.empty:
        raise Unavailable("there are no rows of his on a GLUE task")
    runs = one_calibration_size(rows).drop_duplicates("run_id")
    ours = {str(task): _mean_over_seeds(part) for task, part in runs.groupby("task")}
    printed = paper.read("table7_8_orthogonality")
    printed = printed[printed["model"] == MODEL].set_index("task")
    data = pd.DataFrame(
        [
            {"task": task, "statistic": name, PAPER: printed.loc[task, name], **_side(ours.get(task), name)}
            for task in TASKS
            for name in STATISTICS
        ]
    )
    text = (
        f"Orthogonality, beside the paper's table 7 (BERT-base, 144 heads): {caption(rows)}. u: HIS divided by its sum "
    )
    text += f"over all heads; v: AE; moments over the heads, mean over seeds. {BLANK.split(';')[0]}."
    return Table(_shown(data), data, text + missing_tasks(rows))


def orthogonality(his: np.ndarray, ae: np.ndarray) -> dict[str, float]:
    """The statistics of table 7 from the two scores of all heads; the correlation is NaN where one is constant."""
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
