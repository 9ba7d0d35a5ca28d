"""Many small files of an experiment into three: `python -m analysis.pack --results DIR --experiment NAME --out DIR`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from analysis.cli import Parser, check_experiment, exit_code, no_rows, rows_warnings
from hies.errors import HiesError
from hies.runs import folders
from hies.runs.pack import pack


def main(arguments: Sequence[str] | None = None) -> int:
    """Packs the experiments that the options name and prints how large they are; returns the exit code."""
    parser = Parser(prog="python -m analysis.pack", description="Pack the runs of experiments.", allow_abbrev=False)
    parser.add_argument("--results", type=Path, default=Path("results"), metavar="DIR", help="where the rows are")
    parser.add_argument("--experiment", nargs="+", required=True, metavar="NAME", help="what to pack")
    of_out = "gets a folder for each experiment; models and tasks that are packed there already, and not here, stay"
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help=of_out)
    return exit_code(_pack, parser, arguments)


def _pack(options: argparse.Namespace) -> int:
    for experiment in options.experiment:
        check_experiment(options.results, experiment)
        if not folders.has_rows(options.results / experiment):
            raise HiesError(no_rows(options.results, experiment))
        if options.out.resolve() == options.results.resolve():
            raise HiesError(f"--out={options.out} is where the rows are; name another folder.")
    for experiment in options.experiment:
        try:
            with rows_warnings():
                written = pack(options.results / experiment, options.out / experiment)
        except OSError as problem:
            raise HiesError(f"--out cannot be written to ({problem}); name a folder.") from None
        except folders.BadFile as problem:
            raise HiesError(f"{problem}; remove it, or name another folder.") from None
        for path in written:
            print(f"{path}: {path.stat().st_size / 1024:,.0f} KiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
