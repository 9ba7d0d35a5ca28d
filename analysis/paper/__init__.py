"""The numbers that the paper prints (arXiv 2510.13832, version 2), as data; quality and stability in percent."""

from pathlib import Path

import pandas as pd

FOLDER = Path(__file__).parent
TASK_ALIASES = {"vizwiz_vqa": "vizwiz", "mm_vet": "mmvet"}  # what the files call a task -> what everything else does


def paper_tables() -> list[str]:
    """Returns the name of every table that can be read."""
    return sorted(path.stem for path in FOLDER.glob("*.csv"))


def read_paper(name: str) -> pd.DataFrame:
    """Returns a table of the paper by the name of its file, such as `table1_bert_glue_quality`."""
    if name not in paper_tables():
        raise ValueError(f"the paper has no table {name!r}; there are {', '.join(paper_tables())}")
    table = pd.read_csv(FOLDER / f"{name}.csv")
    return table.assign(task=table["task"].replace(TASK_ALIASES))
