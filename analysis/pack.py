"""Many small files of an experiment into three: `python -m analysis.pack --results DIR --experiment NAME --out DIR`.

What comes out is read like what went in (`hies.runs.folders`), fits into a repository, and has the same bytes
whenever the rows are the same. It holds numbers alone: no text of any data set, and no path to one.
"""

import argparse
import gzip
import io
import json
import shlex
import sys
import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from analysis.cli import Parser, UsageError, check_experiment, no_rows
from hies.errors import RowsWarning
from hies.runs import folders as runs
from hies.runs import grid
from hies.runs.files import read_arrays, read_run
from hies.runs.schema import BadRows, Row, sealed

ELSEWHERE = ("results_dir=", "cache_dir=", "wandb.", "device=")  # what of a command concerns one machine alone
DATA_ROOT = "data_root=$HIES_DATA"


def main(arguments: Sequence[str] | None = None) -> int:
    """Pack the experiments that are asked for and say how large they are; returns the exit code."""
    try:
        options = _parser().parse_args(arguments)
        for experiment in options.experiment:
            _check(options.results, experiment, options.out)
        for experiment in options.experiment:
            for path in _pack_and_warn(options.results / experiment, options.out / experiment):
                print(f"{path}: {path.stat().st_size / 1024:,.0f} KiB")
        return 0
    except OSError as problem:
        print(f"error: --out cannot be written to ({problem}); name a folder.", file=sys.stderr)
    except UsageError as problem:
        print(f"error: {problem}", file=sys.stderr)
    return 2


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m analysis.pack", description="Pack the runs of experiments.", allow_abbrev=False)
    parser.add_argument("--results", type=Path, default=Path("results"), metavar="DIR", help="where the rows are")
    parser.add_argument("--experiment", nargs="+", required=True, metavar="NAME", help="what to pack")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="gets a folder for each experiment")
    return parser


def _check(results: Path, experiment: str, out: Path) -> None:
    check_experiment(results, experiment)
    if not runs.has_rows(results / experiment):
        raise UsageError(no_rows(results, experiment))
    if out.resolve() == results.resolve():
        raise UsageError(f"--out={out} is where the rows are; name another folder.")


def _pack_and_warn(source: Path, target: Path) -> list[Path]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", RowsWarning)
        written = pack(source, target)
    for one in caught:
        print(f"warning: {one.message}", file=sys.stderr)
    return written


def pack(source: Path, target: Path) -> list[Path]:
    """Write the runs of the folder `source` to the folder `target`; returns the files.

    A run whose rows cannot be trusted is left out with a RowsWarning; runs without arrays keep their rows.
    """
    rows: list[str] = []
    arrays: dict[str, np.ndarray] = {}
    for path, text in runs.texts(source):
        try:
            read_run(path, text)
            found = read_arrays(path)
        except BadRows as problem:
            warnings.warn(f"{path} {problem} and is left out.", RowsWarning, stacklevel=2)
            continue
        rows += [sealed(_without_path(json.loads(line))) for line in text.splitlines()]
        arrays |= {f"{path.stem}/{name}": array for name, array in found.items()}
    files = {runs.ARRAYS: _npz(arrays), runs.ROWS: gzip.compress("".join(f"{row}\n" for row in rows).encode(), mtime=0)}
    if jobs := _declarations(source):
        files[runs.GRID] = json.dumps({"jobs": [_without_path(job) for job in jobs]}, indent=1).encode()
    target.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        temporary = target / f".{name}.partial"
        temporary.write_bytes(content)
        temporary.replace(target / name)
    return [target / name for name in files]


def _declarations(source: Path) -> list[Row]:
    """The jobs that the grid declares, in full; none where it cannot be used, which is told."""
    usable = {job.run_id for job in grid.declared_jobs(source.parent, source.name)}
    jobs = json.loads((source / runs.GRID).read_text(encoding="utf-8"))["jobs"] if usable else []
    return [job for job in jobs if job["run_id"] in usable]


def _without_path(row: Row) -> Row:
    """The row or job with a command that names no place of the machine it ran on."""
    try:
        words = [word for word in shlex.split(row["command"]) if not word.startswith(ELSEWHERE)]
    except ValueError:  # a quotation mark too few, and so no command
        return {**row, "command": ""}
    kept = [DATA_ROOT if word.startswith("data_root=") else shlex.quote(word) for word in words]
    return {**row, "command": " ".join(kept)}


def _npz(arrays: dict[str, np.ndarray]) -> bytes:
    """What numpy.load reads, without the time of writing in it."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, array in sorted(arrays.items()):
            plain = io.BytesIO()
            np.lib.format.write_array(plain, np.ascontiguousarray(array), allow_pickle=False)
            member = zipfile.ZipInfo(f"{name}.npy")  # dated 1980
            archive.writestr(member, plain.getvalue(), zipfile.ZIP_DEFLATED, 9)
    return content.getvalue()


if __name__ == "__main__":
    sys.exit(main())
