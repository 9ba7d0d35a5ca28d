"""Repeat a finished run and compare: `python -m experiments.rerun RUN_ID [key=value ...]`.

The run's rows are looked for below results_dir; of their command nothing but the overrides is taken, and what is given
here comes after them (data_root=..., device=...). Scoring and evaluation are computed again in folders that are removed
afterwards; data and checkpoints are those of cache_dir. The exit status is 0 where nothing differs but times, revision
and command, 1 where something does, 2 where the run could not be repeated.
"""

import difflib
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from experiments.compare import ANSWERS, Run, cautions, differences
from experiments.job import Job, workbench
from experiments.progress import progress
from experiments.quiet import quiet
from experiments.record import job_of
from experiments.shell import in_sentences
from hies.errors import HiesError, printable
from hies.runs import folders as runs
from hies.runs.files import read_arrays, read_run
from hies.runs.schema import BadRows

COMPUTED = ("statistics", "predictions", "losses")  # folders of the cache that a repetition does not share


def main() -> int:
    """Repeat the run that the command line names; the exit status."""
    quiet()
    words = sys.argv[1:]
    if not words or words[0].startswith("-"):
        print(__doc__)
        return 0 if words in (["-h"], ["--help"]) else 2
    return in_sentences(lambda: _rerun(words[0], words[1:]))


def _rerun(run_id: str, further: list[str]) -> int:
    given = [word.partition("=")[2] for word in further if word.startswith("results_dir=")]
    path, before = find_run(Path(given[-1] if given else "results"), run_id)
    job = job_of(before.rows, further)
    print(f"Repeating {path}.", file=sys.stderr)
    now = repeat(job)
    for caution in cautions(before.rows[0], now.rows[0]):
        print(printable(f"warning: {caution}"), file=sys.stderr)
    if not before.arrays:
        print(f"warning: {path} has no arrays beside it, so answers and scores are not compared.", file=sys.stderr)
    found = differences(before, now)
    print("\n".join(map(printable, found)) if found else f"{run_id}: nothing differs in its {len(before.rows)} rows.")
    return 1 if found else 0


def find_run(results_dir: Path, run_id: str) -> tuple[Path, Run]:
    """A run and the path of its row file, wherever below `results_dir` it lies, packed or not.

    Raises:
        HiesError: there is no such run, or it cannot be trusted.
    """
    if not runs.is_name(run_id):
        raise HiesError(f"RUN_ID is {run_id!r}; give the run_id of a row, which is a name and no path.")
    folders = [folder for folder in _folders(results_dir) if _may_hold(folder, run_id)]
    every = (found for folder in folders for found in _texts(folder))
    path, text = next((found for found in every if found[0].stem == run_id), (None, ""))
    if path is None:
        raise HiesError(f"RUN_ID is {run_id!r}, but {results_dir} holds no such run; {_closest(results_dir, run_id)}.")
    try:
        run = Run(read_run(path, text), read_arrays(path))
        if (there := len(run.arrays.get(ANSWERS, run.rows))) != len(run.rows):
            raise BadRows(f"has {len(run.rows)} rows and arrays beside it for {there}")
        return path, run
    except BadRows as problem:
        raise HiesError(f"{path} {problem}, so there is nothing to compare with; run its command again.") from None


def _folders(results_dir: Path) -> list[Path]:
    return sorted(folder for folder in results_dir.iterdir() if folder.is_dir()) if results_dir.is_dir() else []


def _may_hold(folder: Path, run_id: str) -> bool:
    return runs.is_packed(folder) or (folder / f"{run_id}.jsonl").exists()


def _texts(folder: Path) -> Iterator[tuple[Path, str]]:
    try:
        yield from runs.texts(folder)
    except runs.BadFile as file:
        print(f"warning: {file} cannot be read and is left out.", file=sys.stderr)


def _closest(results_dir: Path, run_id: str) -> str:
    known = {path.stem for folder in _folders(results_dir) for path, _ in _texts(folder)}
    close = difflib.get_close_matches(run_id, known, 1, cutoff=0.0)
    return f"the closest is {close[0]}" if close else "it holds none at all, and results_dir=DIR names another folder"


def repeat(job: Job) -> Run:
    """Compute a job again, whatever was computed before; what is on the disk stays as it is."""
    with tempfile.TemporaryDirectory() as folder:
        results_dir, cache_dir = Path(folder) / "results", Path(folder) / "cache"
        _share(Path(job.config.cache_dir), cache_dir)
        config = replace(job.config, results_dir=str(results_dir), cache_dir=str(cache_dir), force=False)
        again = Job(config, job.overrides)
        progress.start([again], here=True)
        try:
            again.run(workbench(config), progress.tick)
        finally:
            progress.close()
        return Run(again.rows(), runs.read_arrays(again.path))


def _share(cache_dir: Path, target: Path) -> None:
    """A cache with the data and the checkpoints of another and nothing that a criterion's results come from."""
    target.mkdir()
    for child in cache_dir.iterdir() if cache_dir.is_dir() else ():
        if child.name not in COMPUTED:
            (target / child.name).symlink_to(child.resolve(), target_is_directory=child.is_dir())


if __name__ == "__main__":
    sys.exit(main())
