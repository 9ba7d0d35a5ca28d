"""Uploads the runs that W&B has not got yet: `python -m experiments.sync [RESULTS_DIR]`, or `make sync`."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import filelock

from hies.runs.wandb import ARTIFACT, IMPATIENT, ROW_FILE, first_line

PATIENCE = 60.0  # seconds without one more uploaded run before an upload is given up
AT_ONCE = 200  # runs for one call of `wandb sync`: their names must fit a command line
NOTE_FILE = "mirrored.json"  # in the folder of a run: its project, and its row file below the results folder


class NotUploaded(Exception):
    """Why runs stay where they are, in one sentence."""


def main(arguments: list[str]) -> int:
    """Uploads and prints how many; returns the exit status."""
    if len(arguments) > 1 or arguments[:1] in (["-h"], ["--help"]):
        print("usage: python -m experiments.sync [RESULTS_DIR]  (default: results)")
        return int(len(arguments) > 1) * 2
    results_dir = Path(*arguments or ["results"]).resolve()
    _set_environment(results_dir)
    try:
        uploaded = sync(results_dir)
    except NotUploaded as problem:
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


def note(run: Path, project: str, row_file: str) -> None:
    """Leaves in the folder of a run what it takes to see later whether W&B has all of it."""
    (run / NOTE_FILE).write_text(json.dumps({"project": project, "row_file": row_file}), encoding="utf-8")


def sync(results_dir: Path) -> int:
    """Uploads all waiting runs, one process at a time; returns how many.

    Raises:
        NotUploaded: no key, no server, or runs that it did not take.
    """
    if not results_dir.is_dir():
        raise NotUploaded(f"RESULTS_DIR is {results_dir}, which is no folder; name the one that the rows are in.")
    if not waiting(results_dir):
        return 0
    tried: set[Path] = set()
    with filelock.FileLock(results_dir / "wandb" / ".sync.lock"):
        _log_in(results_dir)
        while runs := [run for run in waiting(results_dir) if run not in tried][:AT_ONCE]:  # more may come meanwhile
            tried.update(runs)
            _upload(runs, results_dir)
            _unmark_partial(runs, results_dir)
            if {*runs} <= {*waiting(results_dir)}:  # the server is gone, rather than a run damaged
                break
        stuck = sorted(tried & {*waiting(results_dir)})
    if stuck:
        raise NotUploaded(
            f"W&B did not take {len(stuck)} runs ({len(tried) - len(stuck)} were uploaded), the first of them "
            f"{stuck[0]}; it said: {_last_words(results_dir)}"
        )
    return len(tried)


def _set_environment(results_dir: Path) -> None:
    """For W&B, in this process and the one that it starts; what the user has set stays."""
    os.environ.pop("WANDB_MODE", None)  # it says what jobs do; an upload is what this command is for
    os.environ |= {**IMPATIENT, **os.environ, "WANDB_DIR": str(results_dir), "WANDB_SILENT": "true"}


def _log_in(results_dir: Path) -> None:
    """Finds out soon whether there is a key that a server takes."""
    import wandb

    stay = f"{len(waiting(results_dir))} runs stay in {results_dir}/wandb."
    try:
        if wandb.login(prompt=False, verify=True):
            return
    except Exception as error:
        said = first_line(error)
        raise NotUploaded(f"W&B cannot be reached, or does not take this API key ({said}); {stay}") from None
    raise NotUploaded(f"There is no W&B API key: set WANDB_API_KEY, or run `wandb login`; {stay}")


def _upload(runs: list[Path], results_dir: Path) -> None:
    """Runs `wandb sync`, which retries for long, until it ends or no run more is marked in `PATIENCE` seconds."""
    with _log(results_dir).open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "wandb", "sync", *map(str, runs)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, "WANDB_SILENT": "false"},
        )
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


def _unmark_partial(runs: list[Path], results_dir: Path) -> None:
    """Takes the mark off runs that the server has in part alone: `wandb sync` marks them when it has tried."""
    notes = {run: read for run in runs if (read := _read_note(run))}
    whole: set[Path] = set()
    try:
        for project in {note["project"] for note in notes.values()}:
            ids = {_wandb_id(run): run for run, note in notes.items() if note["project"] == project}
            whole |= _whole(project, ids, {run: results_dir / notes[run]["row_file"] for run in ids.values()})
    except Exception as error:  # the server is gone: nothing more is known to be there
        with _log(results_dir).open("a", encoding="utf-8") as log:
            log.write(f"wandb: ERROR {first_line(error)}\n")
    for run in notes.keys() - whole:
        _mark(run).unlink(missing_ok=True)


def _read_note(run: Path) -> dict[str, str] | None:
    """Returns what `note` left; None where it is not there, or not as it was written."""
    try:
        read = json.loads((run / NOTE_FILE).read_text(encoding="utf-8"))
        return {"project": str(read["project"]), "row_file": str(read["row_file"])}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _whole(project: str, runs: dict[str, Path], row_files: dict[Path, Path]) -> set[Path]:
    """Returns the runs whose rows and scores the server has; scores that are not here either cannot be missed."""
    import wandb

    whole = set()
    for there in wandb.Api().runs(project, filters={"name": {"$in": list(runs)}}, lazy=False, include_sweeps=False):
        run = runs[there.id]
        artifacts = [one for one in there.logged_artifacts() if one.type == ARTIFACT and one.state == "COMMITTED"]
        lacks_scores = not artifacts and row_files[run].with_suffix(".npz").exists()
        if isinstance(there.config.get(ROW_FILE), str) and not lacks_scores:
            whole.add(run)
    return whole


def _wandb_id(run: Path) -> str:
    (file,) = run.glob("run-*.wandb")
    return file.stem.removeprefix("run-")


def _mark(run: Path) -> Path:
    """What `wandb sync` leaves beside the file of a run that it has uploaded."""
    return run / f"run-{_wandb_id(run)}.wandb.synced"


def _log(results_dir: Path) -> Path:
    return results_dir / "wandb" / "wandb-sync.log"


def _last_words(results_dir: Path) -> str:
    lines = _log(results_dir).read_text(encoding="utf-8", errors="replace").splitlines()
    errors = [line.partition("ERROR ")[2] for line in lines if "ERROR " in line]
    return errors[-1] if errors else f"nothing of an error, see {_log(results_dir)}"


if __name__ == "__main__":
    status = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # W&B's own process can hang when it is told to end, and Python would wait; alone, it ends
