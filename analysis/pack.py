"""Many small files of an experiment into three: `python -m analysis.pack --results DIR --experiment NAME --out DIR`."""

import argparse
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from analysis.cli import Parser, UsageError, check_experiment, no_rows
from hies.errors import RowsWarning
from hies.runs import folders
from hies.runs.pack import pack


def main(arguments: Sequence[str] | None = None) -> int:
    """Packs the experiments that the options name and prints how large they are; returns the exit code."""
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
    if not folders.has_rows(results / experiment):
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


if __name__ == "__main__":
    sys.exit(main())
