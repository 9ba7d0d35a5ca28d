"""The command line: `python -m analysis [NAME ...] --results DIR --out DIR`."""

import argparse
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pandas as pd

from analysis.data.rows import finished_jobs, load, missing_jobs
from analysis.errors import Unavailable
from analysis.registry import Entry, Table, entries
from analysis.text.labels import model_name
from analysis.text.measures import MEASURE_OF
from hies.errors import HiesError, RowsWarning, output_closed, printable
from hies.runs import grid
from hies.runs.folders import has_rows
from hies.runs.schema import Row

if TYPE_CHECKING:  # the template engine is there for the page alone
    from analysis.page import Section

JOBS_NAMED = 12  # missing jobs that are named one by one
LEADERBOARD = "leaderboard"  # the table that comes with an HTML page
Tables = dict[tuple[str, ...], Table | None]  # what was written, by the group whose rows it is of; None for figures
# Rows may come from anywhere: those of one group, which end in one of these, must not end all others.
UNUSABLE = (ValueError, TypeError, LookupError, ArithmeticError)
RUN_COMMAND = "python -m experiments.run -m experiment="


class Parser(argparse.ArgumentParser):
    """argparse, but its errors are one sentence."""

    def error(self, message: str) -> NoReturn:
        """Raises instead of printing the usage."""
        raise HiesError(f"{message}; `{self.prog} --help` names the options.")


def exit_code(work: Callable[[argparse.Namespace], int], parser: Parser, arguments: Sequence[str] | None) -> int:
    """Returns that of a command with these arguments; an error is printed as one sentence."""
    try:
        try:
            return work(parser.parse_args(arguments))
        finally:
            print(end="", flush=True)  # here, where it can be said what came of it
    except BrokenPipeError:
        return output_closed()
    except HiesError as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 2


@contextmanager
def rows_warnings() -> Iterator[None]:
    """Prints what was left out in the block, after it and each once."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", RowsWarning)
        yield
    for text in dict.fromkeys(str(one.message) for one in caught if issubclass(one.category, RowsWarning)):
        print(f"warning: {text}", file=sys.stderr)


def main(arguments: Sequence[str] | None = None) -> int:
    """Builds figures and tables, prints what was written and what is missing; returns the exit code."""
    parser = Parser(prog="python -m analysis", description="Build figures and tables from rows.", allow_abbrev=False)
    parser.add_argument("names", nargs="*", metavar="NAME", help="figures or tables to build (default: all)")
    parser.add_argument("--results", type=Path, default=Path("results"), metavar="DIR", help="where the rows are")
    parser.add_argument("--out", type=Path, default=Path("results"), metavar="DIR", help="gets figures/ and tables/")
    parser.add_argument("--experiment", metavar="NAME", help="only this experiment (default: all)")
    parser.add_argument(
        "--from", dest="source", choices=("local", "wandb"), default="local", help="where rows come from"
    )
    parser.add_argument("--project", metavar="ENTITY/NAME", help="for --from wandb: its runs are added to --results")
    parser.add_argument(
        "--measure",
        metavar="NAMES",
        help=f"what to show, with commas: {', '.join(MEASURE_OF)} (default: the first two)",
    )
    parser.add_argument("--list", action="store_true", help="name all figures and tables")
    return exit_code(_build, parser, arguments)


def _build(options: argparse.Namespace) -> int:
    if options.list:
        print(*(f"{one.name:<14}{one.kind}: {one.about} Needs {one.needs}." for one in entries().values()), sep="\n")
        return 0
    measures = _measures(options.measure)
    chosen = _chosen(options.names, bool(measures))
    with rows_warnings():
        _fetch(options)
    if LEADERBOARD not in options.names:
        return _build_from(options, chosen, measures)[0]
    parts = _parts(options)
    built = {part.results: _build_from(part, chosen, measures) for part in parts}
    sections = (_sections(options, results, boards, missing) for results, (_, boards, missing) in built.items())
    with _writing(options.out):
        _write_page(options, [one for part in sections for one in part])
    return max((status for status, *_ in built.values()), default=0)


def _parts(options: argparse.Namespace) -> list[argparse.Namespace]:
    """The options for each folder that a page is made of: --results itself, or those folders in it that hold rows.

    None where there are only figures.
    """
    results, named = options.results, options.experiment

    def holds_rows(folder: Path) -> bool:
        return any(named in (None, name) and has_rows(folder / name) for name in grid.experiments(folder))

    if grid.experiments(results) or not results.is_dir():
        return [options]
    below = [*filter(holds_rows, sorted(results.iterdir()))]
    if not below:
        return [] if _figure_folders(options) else [options]
    return [argparse.Namespace(**{**vars(options), "results": one, "out": options.out / one.name}) for one in below]


def _figure_folders(options: argparse.Namespace) -> list[Path]:
    """The folders with figures of a page: --results and --out, and those in them."""
    tops = dict.fromkeys([options.results.resolve(), options.out.resolve()])
    return [path.parent for top in tops for pattern in ("figures", "*/figures") for path in sorted(top.glob(pattern))]


def _sections(
    options: argparse.Namespace, results: Path, boards: Tables, missing: list[grid.DeclaredJob]
) -> Iterator["Section"]:
    """These leaderboards of a folder, each with the jobs that it lacks."""
    from analysis.page import Section

    folder = "" if results == options.results else f"{results.name}, "
    for (experiment, model), board in boards.items():
        assert board is not None
        lacking = [f"{job}: {job.command}" for job in missing if (job.experiment, job.model) == (experiment, model)]
        yield Section(f"{folder}{experiment}, {model_name(model)}", board.shown, board.caption, lacking)


def _write_page(options: argparse.Namespace, sections: list["Section"]) -> None:
    """Writes these leaderboards and all figures as one page."""
    from analysis.page import write_page

    title, path = f"Leaderboard: {printable(options.results.resolve().name)}", options.out / f"{LEADERBOARD}.html"
    print(f"written: {write_page(path, title, sections, _figure_folders(options))}")


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    """Says in one sentence that the folder of an option cannot be written to."""
    try:
        yield
    except BrokenPipeError:  # of what is printed
        raise
    except OSError as problem:
        raise HiesError(f"--out={out} cannot be written to ({problem.strerror}); name a folder.") from None


def _build_from(
    options: argparse.Namespace, chosen: list[Entry], measures: tuple[str, ...]
) -> tuple[int, Tables, list[grid.DeclaredJob]]:
    """Builds what was chosen; returns the exit code, the leaderboards, and the declared jobs that have no rows."""
    with rows_warnings():
        check_experiment(options.results, options.experiment)
        frames = {read: read(options.results, options.experiment) for read in {entry.load for entry in chosen}}
        jobs = frames.get(load)
        missing = [] if jobs is None else missing_jobs(options.results, jobs, options.experiment)
    if all(frame.empty for frame in frames.values()):
        raise HiesError(_nothing(options, chosen))
    named = bool(options.names)
    with _writing(options.out), rows_warnings():
        made = {entry.name: _write_groups(entry, frames[entry.load], options.out, measures, named) for entry in chosen}
    if not (written := any(made.values())):
        print("Nothing was written.")
    if not named and (without := [name for name, groups in made.items() if not groups]):
        print(f"These rows do not allow {', '.join(without)} (ask for one by name to see what it lacks).")
    if jobs is not None:
        _print_completeness(options.results, finished_jobs(jobs), missing, options.experiment)
    return 0 if written else 1, made.get(LEADERBOARD, {}), missing


def _fetch(options: argparse.Namespace) -> None:
    """Adds what W&B has to --results, if an option says so."""
    if options.source == "local":
        if options.project is not None:
            raise HiesError(f"--project={options.project} is for --from=wandb; give both or none.")
        return
    if options.project is None:
        raise HiesError("--from=wandb lacks --project; give --project=ENTITY/NAME.")
    from hies.runs.wandb import fetch

    new = fetch(options.project, options.results, options.experiment)
    print(f"{new} runs of --project={options.project} were not in {options.results} yet and are written there.")


def _measures(given: str | None) -> tuple[str, ...]:
    """Returns the measures that an option names; none without it."""
    names = () if given is None else tuple(dict.fromkeys(given.split(",")))
    for name in names:
        if name not in MEASURE_OF:
            raise HiesError(f"--measure={given} names {name!r}, which is no measure; {_there_are(MEASURE_OF, name)}.")
    return names


def _chosen(names: list[str], with_measures: bool) -> list[Entry]:
    """Returns the figures and tables of these names, or all; `with_measures`: of those that show any measure."""
    known = entries()
    fitting = {name: one for name, one in known.items() if one.takes_measures or not with_measures}
    for name in names:
        if name not in known:
            raise HiesError(f"NAME={name} is no figure or table; {_there_are(known, name)}.")
        if name not in fitting:
            raise HiesError(f"--measure cannot be chosen for NAME={name}; {_there_are(fitting, name)}.")
    return [fitting[name] for name in dict.fromkeys(names)] or list(fitting.values())


def _there_are(known: Iterable[str], name: str) -> str:
    close = get_close_matches(name, known, n=1, cutoff=0.5)
    return f"{f'did you mean {close[0]}? ' if close else ''}There are: {', '.join(known)}"


def check_experiment(results: Path, experiment: str | None) -> None:
    """Raises a HiesError for an experiment that is not there though others are."""
    known = grid.experiments(results)
    if known and experiment is not None and experiment not in known:
        works = f"{_there_are(known, experiment)}, or what `{RUN_COMMAND}{experiment}` makes"
        raise HiesError(f"--experiment={experiment} has no folder in {results}; {works}.")


def no_rows(results: Path, experiment: str | None) -> str:
    """Returns which command makes the rows that are not there."""
    if experiment:
        return f"--experiment={experiment} has no rows in {results}; `{RUN_COMMAND}{experiment}` makes them."
    return f"--results={results} holds no rows; `make run` or `{RUN_COMMAND}quickstart` makes them."


def _nothing(options: argparse.Namespace, chosen: list[Entry]) -> str:
    """What to do where none of the chosen has any rows."""
    if any(entry.load is load for entry in chosen):
        return no_rows(options.results, options.experiment)
    return f"--results={options.results} has nothing for NAME={chosen[0].name}, which needs {chosen[0].needs}."


def _write_groups(entry: Entry, rows: pd.DataFrame, out: Path, measures: tuple[str, ...], explain: bool) -> Tables:
    """One output for each group; the groups whose rows do not allow it are named with the reason (if `explain`)."""
    written: Tables = {}
    refused: dict[str, list[str]] = {}
    if rows.empty and explain:
        print(f"not built: {entry.name}: it needs {entry.needs}.")
    for key, group in rows.groupby(list(entry.per)) if entry.per else [((), rows)]:
        try:
            made, new = entry.write(group, out, measures)
            print(*(f"written: {path}" for path in new), sep="\n", flush=True)  # at once: all of them take a while
            written[key] = made if isinstance(made, Table) else None
        except Unavailable as reason:
            refused.setdefault(str(reason), []).append(", ".join(map(str, key)))
        except UNUSABLE as error:
            what = f"{type(error).__name__}: {error}".splitlines()[0]
            said = f"error: {_named(entry, [', '.join(map(str, key))])} cannot be built from these rows ({what})."
            print(printable(said), file=sys.stderr)
    for words, keys in refused.items() if explain else ():
        print(printable(f"not built: {_named(entry, keys)}: {words}."))
    return written


def _named(entry: Entry, keys: Sequence[str]) -> str:
    """A figure or table with the groups whose rows it is of, which one of all rows has not."""
    return f"{entry.name} for {'; '.join(keys)}" if entry.per else entry.name


def _commands_of_tasks(missing: list[grid.DeclaredJob]) -> dict[tuple[str, str], str]:
    """One command for all jobs of a model and task: what theirs have in common, where it names a declared grid."""
    words: dict[tuple[str, str], list[list[str]]] = {}
    for job in missing:
        words.setdefault((job.model, job.task), []).append(job.command.split())
    common = {key: [word for word in each[0] if all(word in one for one in each)] for key, each in words.items()}
    named = {key: " ".join(each) for key, each in common.items() if len(words[key]) > 1}
    return {key: command for key, command in named.items() if " experiment=" in command}


def _print_completeness(
    results: Path, finished: list[Row], missing: list[grid.DeclaredJob], experiment: str | None
) -> None:
    for name in [experiment] if experiment else grid.experiments(results):
        jobs = grid.jobs(results, name, finished)
        gaps = [job for job in missing if job.experiment == name]
        failed = sum(job.failed for job in gaps)
        tail = f", {failed} failed" if failed else ""
        source = "" if grid.read_grid(results, name) else " (no grid.json: only what was found is counted)"
        print(f"{name}: {len(jobs) - len(gaps)} of {len(jobs)} jobs finished{tail}{source}.")
        begun = {(row["model"], row["task"]) for row in finished if row["experiment"] == name}
        tasks = _commands_of_tasks([job for job in gaps if (job.model, job.task) not in begun])
        for (model, task), command in tasks.items():
            print(printable(f"  no rows of {model} on {task}: {command}"))
        gaps = [job for job in gaps if (job.model, job.task) not in tasks]
        for job in gaps[:JOBS_NAMED]:
            print(f"  missing{' (failed)' * job.failed}: {job}: {job.command or 'its command is not recorded'}")
        if len(gaps) > JOBS_NAMED:
            print(f"  and {len(gaps) - JOBS_NAMED} more; `{RUN_COMMAND}{name}` makes those that it declares.")
