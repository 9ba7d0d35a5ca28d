"""Uploads the runs that W&B has not got yet: `python -m experiments.sync [RESULTS_DIR]`, or `make sync`."""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import filelock

from hies.errors import HiesError, first_line
from hies.runs.wandb import ARTIFACT, IMPATIENT, ROW_FILE

PATIENCE = 60.0  # seconds without one more uploaded run before an upload is given up
AT_ONCE = 200  # runs for one call of `wandb sync`: their names must fit a command line
NOTE_FILE = "mirrored.json"  # in the folder of a run: its project, and its row file below the results folder
ROOT = Path(__file__).parents[1]


def main(arguments: list[str]) -> int:
    """Uploads and prints how many; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m experiments.sync", description=__doc__)
    parser.add_argument("results_dir", metavar="RESULTS_DIR", nargs="?", default="results")
    given = parser.parse_args(arguments).results_dir
    if not given.strip():
        parser.error(f"RESULTS_DIR is {given!r}; name a folder (. is the current one).")
    results_dir = Path(given).resolve()
    os.environ.pop("WANDB_MODE", None)  # it says what jobs do; an upload is what this command is for
    os.environ |= {**IMPATIENT, **os.environ, "WANDB_DIR": str(results_dir), "WANDB_SILENT": "true"}
    try:
        uploaded = sync(results_dir)
    except HiesError as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 1
    except OSError as problem:
        print(f"error: {problem.filename or results_dir} cannot be used ({problem.strerror}).", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted; what is not uploaded stays where it is.", file=sys.stderr)
        return 130
    print(f"{uploaded} runs uploaded." if uploaded else f"No run in {results_dir}/wandb is left to upload.")
    return 0


def waiting(results_dir: Path) -> list[Path]:
    """Returns the folders of offline runs that W&B has not got; `wandb sync` marks those that it has."""
    runs = sorted((results_dir / "wandb").glob("offline-run-*/*.wandb"))
    return [run.parent for run in runs if not _mark(run.parent).exists()]


def sync(results_dir: Path) -> int:
    """Uploads all waiting runs, one process at a time; returns how many.

    Raises:
        HiesError: no key, no server, or runs that it did not take.
    """
    if not results_dir.is_dir():
        raise HiesError(f"RESULTS_DIR is {results_dir}, which is no folder; name the one that the rows are in.")
    if not waiting(results_dir):
        return 0
    log = results_dir / "wandb" / "wandb-sync.log"
    with filelock.FileLock(results_dir / "wandb" / ".sync.lock"):
        _log_in(results_dir)
        runs = waiting(results_dir)
        for first in range(0, len(runs), AT_ONCE):
            some = runs[first : first + AT_ONCE]
            _upload(some, log)
            _unmark_partial(some, results_dir, log)
            if not any(_mark(run).exists() for run in some):  # the server is gone, rather than a run damaged
                break
        stuck = [run for run in runs if not _mark(run).exists()]
    if stuck:
        raise HiesError(
            f"W&B did not take {len(stuck)} runs ({len(runs) - len(stuck)} were uploaded), the first of them "
            f"{stuck[0]}; it said: {_last_words(log)}"
        )
    return len(runs)


def start(words: list[str], log: Path, **environment: str) -> subprocess.Popen[bytes]:
    """Starts `python -m` with these words in a session of its own, so that it may outlive this process.

    Args:
        words: a module and its arguments.
        log: takes what it prints.
        environment: variables besides those of this process.
    """
    with log.open("wb") as file:
        return subprocess.Popen(
            [sys.executable, "-m", *words],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, **environment},
        )


def _log_in(results_dir: Path) -> None:
    """Finds out soon whether there is a key that a server takes."""
    import wandb

    stay = f"{len(waiting(results_dir))} runs stay in {results_dir}/wandb."
    try:
        if wandb.login(prompt=False, verify=True):
            return
    except Exception as error:
        said = first_line(error)
        raise HiesError(f"W&B cannot be reached, or does not take this API key ({said}); {stay}") from None
    raise HiesError(f"There is no W&B API key: set WANDB_API_KEY, or run `wandb login`; {stay}")


def _upload(runs: list[Path], log: Path) -> None:
    """Runs `wandb sync`, which retries for long, until it ends or no run more is marked in `PATIENCE` seconds."""
    process = start(["wandb", "sync", *map(str, runs)], log, WANDB_SILENT="false")
    marked, since = 0, time.monotonic()
    try:
        while process.poll() is None and time.monotonic() - since < PATIENCE:
            time.sleep(0.1)
            if (now := sum(_mark(run).exists() for run in runs)) > marked:
                marked, since = now, time.monotonic()
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)  # W&B's own process as well
            process.wait()


def _unmark_partial(runs: list[Path], results_dir: Path, log: Path) -> None:
    """Takes the mark off runs that the server has in part alone: `wandb sync` marks them when it has tried."""
    import wandb

    ids = {_wandb_id(run): run for run in runs if (run / NOTE_FILE).exists()}
    notes = {name: json.loads((run / NOTE_FILE).read_text(encoding="utf-8")) for name, run in ids.items()}
    whole = set()
    try:
        for project in {note["project"] for note in notes.values()}:
            names = [name for name, note in notes.items() if note["project"] == project]
            some = wandb.Api().runs(project, filters={"name": {"$in": names}}, lazy=False, include_sweeps=False)
            whole |= {run.id for run in some if _is_whole(run, results_dir / notes[run.id]["row_file"])}
    except Exception as error:  # the server is gone: nothing more is known to be there
        with log.open("a", encoding="utf-8") as file:
            file.write(f"wandb: ERROR {first_line(error)}\n")
    for name in notes.keys() - whole:
        _mark(ids[name]).unlink(missing_ok=True)


def _is_whole(run: Any, row_file: Path) -> bool:
    """Whether the server has rows and scores; scores that are not here either cannot be missed."""
    scores = [one for one in run.logged_artifacts() if one.type == ARTIFACT and one.state == "COMMITTED"]
    return isinstance(run.config.get(ROW_FILE), str) and bool(scores or not row_file.with_suffix(".npz").exists())


def _wandb_id(run: Path) -> str:
    return run.name.split("-", 3)[3]  # offline-run-<time>-<id>


def _mark(run: Path) -> Path:
    """What `wandb sync` leaves beside the file of a run that it has uploaded."""
    return run / f"run-{_wandb_id(run)}.wandb.synced"


def _last_words(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    errors = [line.partition("ERROR ")[2] for line in lines if "ERROR " in line]
    return errors[-1] if errors else f"nothing of an error, see {log}"


if __name__ == "__main__":
    status = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # W&B's own process can hang when it is told to end, and Python would wait; alone, it ends
