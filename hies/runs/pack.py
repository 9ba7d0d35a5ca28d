"""The many small files of an experiment as three: its rows, its arrays and its grid.

What comes out is read like what went in (`hies.runs.folders`), fits into a repository, and has the same bytes
whenever the rows are the same. It holds numbers alone: no text of any data set, and no path to one.
"""

import contextlib
import gzip
import io
import json
import lzma
import shlex
import zipfile
from pathlib import Path
from typing import Any

import filelock
import numpy as np

from hies.runs import folders, grid
from hies.runs.files import read_arrays, read_run
from hies.runs.schema import BadRows, sealed
from hies.storage import replacing

# What of a command concerns one machine alone.
OF_A_MACHINE = ("results_dir=", "cache_dir=", "wandb.", "device=", "--config-dir=")
DATA_ROOT = "data_root=$HIES_DATA"  # in place of what a command gives, and the same as none: it is the default


def pack(source: Path, target: Path) -> list[Path]:
    """Writes the runs of the folder `source` to the folder `target`; returns the files.

    A run whose rows cannot be trusted is left out with a RowsWarning; runs without arrays keep their rows. Of what
    `target` holds, the models and tasks that `source` lacks stay. Processes that pack into one folder wait for each
    other, since each keeps what it has read there.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(target.with_name(f".{target.name}.lock")):
        return _pack_alone(source, target)


def _pack_alone(source: Path, target: Path) -> list[Path]:
    runs, arrays = _trusted(source)
    kept = {}
    if target.resolve() != source.resolve() and folders.is_packed(target):
        given = {_subject(rows) for rows in runs.values()}
        others, their_arrays = _trusted(target)
        kept = {run_id: rows for run_id, rows in others.items() if _subject(rows) not in given}
        arrays |= {name: array for name, array in their_arrays.items() if name.partition("/")[0] in kept}
    rows = [row for _, rows in sorted((runs | kept).items()) for row in rows]
    lines = "".join(f"{row}\n" for row in rows).encode()
    files = {
        folders.PACKED_ARRAYS: lzma.compress(_npz(arrays)),
        folders.PACKED_ROWS: gzip.compress(lines, mtime=0),
    }
    jobs = [job for job in _declarations(target) if job["run_id"] in kept] if kept else []
    if jobs := jobs + _declarations(source):
        files[folders.GRID] = json.dumps({"jobs": [_without_path(job) for job in jobs]}, indent=1).encode()
    with contextlib.ExitStack() as stack:  # none is replaced before all are written
        for name, content in files.items():
            stack.enter_context(replacing(target / name)).write_bytes(content)
    return [target / name for name in files]


def _trusted(source: Path) -> tuple[dict[str, list[str]], dict[str, np.ndarray]]:
    """Returns the sealed rows of every run of a folder by run id, and the arrays by run id and name."""
    runs: dict[str, list[str]] = {}
    arrays: dict[str, np.ndarray] = {}
    for path, text in folders.texts(source):
        try:
            read_run(path, text)
            arrays |= {f"{path.stem}/{name}": array for name, array in read_arrays(path).items()}
        except BadRows as problem:
            folders.warn_of_rows(f"{path} {problem} and is left out.")
            continue
        runs[path.stem] = [sealed(_without_path(json.loads(line))) for line in text.splitlines()]
    return runs, arrays


def _subject(rows: list[str]) -> tuple[str, str]:
    first = json.loads(rows[0])
    return first["model"], first["task"]


def _declarations(source: Path) -> list[dict[str, Any]]:
    """The jobs that the grid declares, in full; none where it cannot be used, which a warning says."""
    usable = {job.run_id for job in grid.read_grid(source.parent, source.name)}
    jobs = json.loads((source / folders.GRID).read_text(encoding="utf-8"))["jobs"] if usable else []
    return [job for job in jobs if job["run_id"] in usable]


def _without_path(row: dict[str, Any]) -> dict[str, Any]:
    """The row or job with a command that names no place of the machine it ran on."""
    try:
        words = [word for word in shlex.split(row["command"]) if not word.startswith(OF_A_MACHINE)]
    except ValueError:  # a quotation mark too few, and so no command
        return {**row, "command": ""}
    kept = [DATA_ROOT if word.startswith("data_root=") else shlex.quote(word) for word in words]
    return {**row, "command": " ".join(kept)}


def _npz(arrays: dict[str, np.ndarray]) -> bytes:
    """What numpy.load reads, without the time of writing in it.

    Nothing in it is compressed: runs share answers and scores, which compression of the whole finds, the sooner where
    arrays of one name are together.
    """
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, array in sorted(arrays.items(), key=lambda item: item[0].split("/")[::-1]):
            plain = io.BytesIO()
            np.lib.format.write_array(plain, np.ascontiguousarray(array), allow_pickle=False)
            member = zipfile.ZipInfo(f"{name}.npy")  # dated 1980
            archive.writestr(member, plain.getvalue(), zipfile.ZIP_STORED)
    return content.getvalue()
