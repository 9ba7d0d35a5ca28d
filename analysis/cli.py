"""The command line: `python -m analysis [NAME ...] --results DIR --out DIR`."""

import argparse
import sys
import warnings
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import NoReturn

import pandas as pd

from analysis.errors import Unavailable
from analysis.output import write
from analysis.registry import Entry, entries
from analysis.rows import finished, load
from hies.errors import RowsWarning
from hies.runs import grid

SHOWN = 12  # missing jobs that are named one by one
RUN = "python -m experiments.run -m experiment="


class UsageError(Exception):
    """One sentence: the option, its value, and what works."""


class Parser(argparse.ArgumentParser):
    """argparse, but its errors are one sentence."""

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing the usage."""
        raise UsageError(f"{message}; `{self.prog} --help` names the options.")


def main(arguments: Sequence[str] | None = None) -> int:
    """Build what is asked for, say what was written and what is missing; returns the exit code."""
    try:
        options = _parser().parse_args(arguments)
        if options.list:
            return _print_list()
        return _build(options)
    except UsageError as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m analysis", description="Build figures and tables from rows.", allow_abbrev=False)
    parser.add_argument("names", nargs="*", metavar="NAME", help="figures or tables to build (default: all)")
    parser.add_argument("--results", type=Path, default=Path("results"), metavar="DIR", help="where the rows are")
    parser.add_argument("--out", type=Path, default=Path("results"), metavar="DIR", help="gets figures/ and tables/")
    parser.add_argument("--experiment", metavar="NAME", help="only this experiment (default: all)")
    parser.add_argument(
        "--from", dest="source", choices=("local", "wandb"), default="local", help="where rows come from"
    )
    parser.add_argument("--project", metavar="ENTITY/NAME", help="for --from wandb: its runs are added to --results")
    parser.add_argument("--list", action="store_true", help="name all figures and tables")
    return parser


def _print_list() -> int:
    for entry in entries().values():
        print(f"{entry.name:<14}{entry.kind}: {entry.about} Needs {entry.needs}.")
    return 0


def _build(options: argparse.Namespace) -> int:
    chosen = _chosen(options.names)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", RowsWarning)
        _fetch(options)
        check_experiment(options.results, options.experiment)
        frames = {read: read(options.results, options.experiment) for read in {entry.load for entry in chosen}}
        jobs = frames.get(load)
        missing = [] if jobs is None else grid.missing_jobs(options.results, finished(jobs), options.experiment)
    for text in dict.fromkeys(str(one.message) for one in caught if issubclass(one.category, RowsWarning)):
        print(f"warning: {text}", file=sys.stderr)
    if all(frame.empty for frame in frames.values()):
        raise UsageError(_nothing(options, chosen))
    named = bool(options.names)
    try:
        made = {entry.name: _write_groups(entry, frames[entry.load], options.out, explain=named) for entry in chosen}
    except OSError as problem:
        raise UsageError(f"--out={options.out} cannot be written to ({problem.strerror}); name a folder.") from None
    written = [path for paths in made.values() for path in paths]
    print("\n".join(["Written:", *(f"  {path}" for path in written)]) if written else "Nothing was written.")
    if not options.names and (without := [name for name, paths in made.items() if not paths]):
        print(f"These rows do not allow {', '.join(without)} (ask for one by name to see what it lacks).")
    if jobs is not None:
        _print_completeness(options.results, jobs, missing, options.experiment)
    return 0 if written else 1


def _fetch(options: argparse.Namespace) -> None:
    """Add what W&B has to --results, if that is asked for."""
    if options.source == "local":
        if options.project is not None:
            raise UsageError(f"--project={options.project} is for --from=wandb; give both or none.")
        return
    if options.project is None:
        raise UsageError("--from=wandb lacks --project; give --project=ENTITY/NAME.")
    from hies.runs.wandb import NotFetched, fetch

    try:
        new = fetch(options.project, options.results, options.experiment)
    except NotFetched as problem:
        raise UsageError(str(problem)) from None
    print(f"{new} runs of --project={options.project} were not in {options.results} yet and are written there.")


def _chosen(names: list[str]) -> list[Entry]:
    known = entries()
    for name in names:
        if name not in known:
            close = get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f"did you mean {close[0]}? " if close else ""
            raise UsageError(f"NAME={name} is no figure or table; {hint}There are: {', '.join(known)}.")
    return [known[name] for name in dict.fromkeys(names)] or list(known.values())


def check_experiment(results: Path, experiment: str | None) -> None:
    """Raise a UsageError for an experiment that is not there though others are."""
    known = grid.experiments(results)
    if experiment is None or experiment in known or not known:
        return
    close = get_close_matches(experiment, known, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]}? " if close else ""
    works = f"{', '.join(known)}, or what `{RUN}{experiment}` makes"
    raise UsageError(f"--experiment={experiment} has no folder in {results}; {hint}There are: {works}.")


def no_rows(results: Path, experiment: str | None) -> str:
    """Which command makes the rows that are not there."""
    if experiment:
        return f"--experiment={experiment} has no rows in {results}; `{RUN}{experiment}` makes them."
    return f"--results={results} holds no rows; `make run` or `{RUN}quickstart` makes them."


def _nothing(options: argparse.Namespace, chosen: list[Entry]) -> str:
    """What to do where none of the chosen has any rows."""
    if any(entry.load is load for entry in chosen):
        return no_rows(options.results, options.experiment)
    return f"--results={options.results} has nothing for NAME={chosen[0].name}, which needs {chosen[0].needs}."


def _write_groups(entry: Entry, rows: pd.DataFrame, out: Path, explain: bool) -> list[Path]:
    """One output for each group; the groups whose rows do not allow it are named with the reason (if `explain`)."""
    written: list[Path] = []
    refused: dict[str, list[str]] = {}
    if rows.empty and explain:
        print(f"not built: {entry.name}: it needs {entry.needs}.")
    for key, group in rows.groupby(list(entry.per)):
        try:
            written += write(entry, group, out)
        except Unavailable as reason:
            refused.setdefault(str(reason), []).append(", ".join(map(str, key)))
    for words, keys in refused.items() if explain else ():
        print(f"not built: {entry.name} for {'; '.join(keys)}: {words}.")
    return written


def _print_completeness(results: Path, rows: pd.DataFrame, missing: list[grid.Job], experiment: str | None) -> None:
    for name in [experiment] if experiment else grid.experiments(results):
        jobs = grid.jobs(results, name, finished(rows))
        gaps = [job for job in missing if job.experiment == name]
        failed = sum(job.failed for job in gaps)
        tail = f", {failed} failed" if failed else ""
        source = "" if grid.declared_jobs(results, name) else " (no grid.json: only what was found is counted)"
        print(f"{name}: {len(jobs) - len(gaps)} of {len(jobs)} jobs finished{tail}{source}.")
        for job in gaps[:SHOWN]:
            print(f"  missing{' (failed)' * job.failed}: {job}: {job.command or 'its command is not recorded'}")
        if len(gaps) > SHOWN:
            print(f"  and {len(gaps) - SHOWN} more; `{RUN}{name}` makes those that it declares.")
