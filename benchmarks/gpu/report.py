"""The two files of a run, gpu.jsonl and gpu.md, which are written whole again after each measurement."""

import json
import math
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from hies.storage import replacing

Row = dict[str, Any]
UNITS = {"seconds": (1e3, "ms"), "bytes": (1e-9, "GB"), "flops": (1e-12, "TFLOP")}  # by the end of a column's name


@dataclass
class Part:
    """What one part has given so far.

    Attributes:
        name: of its module.
        module: None if it could not be imported.
        rows: in order.
        state: one line: whole, or why not.
        seconds: since it began.
    """

    name: str
    module: ModuleType | None = None
    rows: list[Row] = field(default_factory=list)
    state: str = "running"
    seconds: float = 0.0


class Report:
    """Keeps rows, and writes both files; also from the thread that ends a stuck run.

    Attributes:
        folder: of the files.
        setting: of the machine and of the command.
        parts: in order.
        trials: which kernels of attention were taken for entropy, and why others were not.
    """

    def __init__(self, folder: Path, setting: Row) -> None:
        self.folder, self.setting = folder, setting
        self.parts: list[Part] = []
        self.trials: list[str] = []
        self._lock = threading.Lock()

    def write(self) -> None:
        """Replaces both files."""
        with self._lock:
            self._replace("gpu.jsonl", "".join(json.dumps(row) + "\n" for row in self._rows()))
            self._replace("gpu.md", self._page())

    def _replace(self, name: str, text: str) -> None:
        with replacing(self.folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")

    def _rows(self) -> Iterator[Row]:
        yield {"part": "machine", **self.setting, "trials": self.trials}
        for part in self.parts:
            yield from ({"part": part.name, **{k: _plain(v) for k, v in row.items()}} for row in list(part.rows))
            yield {"part": part.name, "state": part.state, "part_seconds": round(part.seconds, 1)}

    def _page(self) -> str:
        lines = ["# What was measured on a GPU", ""]
        if self.setting.get("shapes") == "tiny" or self.setting.get("device") == "cpu":
            lines += ["**Tiny shapes or no GPU: these numbers show that the command runs, and nothing else.**", ""]
        lines += ["Measured, where a line does not say *estimated* (counted from shapes, nothing computed).", ""]
        lines += [*_table([{"what": key, "value": value} for key, value in self.setting.items()]), ""]
        lines += ["## What must hold", "", *_table(list(self.limits())), ""]
        lines += ["## Kernels that entropy takes", "", *(f"- {trial}" for trial in self.trials or ["none tried"]), ""]
        for part in self.parts:
            about = ((part.module and part.module.__doc__) or part.name).split("\n")[0]
            lines += [f"## {about}", "", f"`{part.name}`: {part.state}, {part.seconds:.0f} s.", ""]
            for table in dict.fromkeys(row.get("table", "") for row in part.rows):
                rows = [row for row in part.rows if row.get("table", "") == table]
                lines += [f"### {table}", ""] if table else []
                lines += [*_table([{k: v for k, v in row.items() if k != "table"} for row in rows]), ""]
        return "\n".join(lines)

    def limits(self) -> Iterator[Row]:
        """Yields what must hold, the value that was measured, and whether it holds."""
        for part in self.parts:
            if part.module is not None:
                yield from part.module.limits(part.rows)


def first_line(error: BaseException) -> str:
    """Returns the first line of what an error says."""
    return (str(error).strip().splitlines() or [""])[0]


def _plain(value: Any) -> Any:
    """Returns a value as JSON knows it."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def limit(text: str, values: Iterable[float | None], most: float | None = None, least: float | None = None) -> Row:
    """Returns a line of what must hold: every one of the values is at most `most`, or at least `least`."""
    known = [value for value in values if value is not None]
    worst = (max if least is None else min)(known, default=None)
    holds = None
    if worst is not None:
        holds = not math.isnan(worst) and (least is None or worst >= least) and (most is None or worst <= most)
    words = {None: "not measured", True: "yes", False: "**no**"}
    return {"what": text, "limit": most if least is None else least, "measured": worst, "holds": words[holds]}


def _table(rows: list[Row]) -> list[str]:
    """Returns the lines of a table in Markdown, with every key of the rows as a column."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    if not columns:
        return ["Nothing."]
    units = [_unit(column, [row.get(column) for row in rows]) for column in columns]
    heads = [f"{column} ({unit})" if unit else column for column, (_, unit) in zip(columns, units, strict=True)]
    lines = [heads, ["---"] * len(columns)]
    for row in rows:
        lines.append([_cell(row.get(column), factor) for column, (factor, _) in zip(columns, units, strict=True)])
    return ["| " + " | ".join(cells) + " |" for cells in lines]


def _unit(column: str, values: list[Any]) -> tuple[float, str]:
    """Returns the factor and the unit that a column is printed with."""
    numbers = all(isinstance(value, int | float) for value in values if value is not None)
    return next((unit for end, unit in UNITS.items() if column.endswith(end) and numbers), (1.0, ""))


def _cell(value: Any, factor: float) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value).replace("|", "/").replace("\n", " ")
    if factor == 1 and isinstance(value, int):
        return f"{value:,}"
    return f"{value * factor:.4g}"
