"""Made-up GLUE tasks as files, for tests of what reads them."""

import numpy as np
import pandas as pd

from hies.tasks.glue import GLUE_REPOSITORY

ROWS = {"cola": 1043, "mrpc": 408, "rte": 277, "stsb": 1500}


def write_copy(root, kind, train=400, report=211, mark=""):
    """A made-up copy of one task in the layout of the Hub repository."""
    rows = {"train": train, kind.reported: ROWS.get(kind.name, report)}
    if kind.selection not in rows:
        rows[kind.selection] = 97
    folder = root / GLUE_REPOSITORY
    (folder / kind.name).mkdir(parents=True)
    listed = []
    for split, count in rows.items():
        frame = pd.DataFrame({column: [f"{mark}{split} {column} {i}" for i in range(count)] for column in kind.columns})
        frame["label"] = np.arange(count) % max(len(kind.labels), 1) if kind.labels else np.linspace(0, 5, count)
        frame["idx"] = np.arange(count)
        frame.to_parquet(folder / kind.name / f"{split}-00000-of-00001.parquet")
        listed.append(f"  - split: {split}\n    path: {kind.name}/{split}-*\n")
    card = folder / "README.md"
    known = card.read_text().removesuffix("---\n") if card.exists() else "---\nconfigs:\n"
    card.write_text(known + f"- config_name: {kind.name}\n  data_files:\n" + "".join(listed) + "---\n")
    return root
