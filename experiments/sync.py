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
NOTE = "mirrored.json"  # in the folder of a run: its project, and its row file below the results folder


class NotUploaded(Exception):
    """Why runs stay where they are, in one sentence."""


def main(arguments: list[str]) -> int:
    """Upload, say how many; the exit status."""
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
    """The folders of offline runs that W&B has not got; `wandb sync` marks those that it has."""
    runs = sorted((results_dir / "wandb").glob("offline-run-*/*.wandb"))
    return [run.parent for run in runs if not _mark(run).exists()]


def note(run: Path, project: str, row_file: str) -> None:
    """Leave in the folder of a run what it takes to see later whether W&B has all of it."""
    (run / NOTE).write_text(json.dumps({"project": project, "row_file": row_file}), encoding="utf-8")


def sync(results_dir: Path) -> int:
    """Upload all waiting runs, one process at a time; how many.

    Raises:
        NotUploaded: no key, no server, or runs that it did not take.
    """
    if not results_dir.is_dir():
        raise NotUploaded(f"RESULTS_DIR is {results_dir}, which is no folder; name the one that the rows are in.")
    if not waiting(results_dir):
        return 0
    uploaded, left = 0, set[Path]()
    with filelock.FileLock(results_dir / "wandb" / ".sync.lock"):
        while runs := [run for run in waiting(results_dir) if run not in left][:AT_ONCE]:  # more may come meanwhile
            if not uploaded:
                _log_in(results_dir)
            _upload(runs, results_dir)
            _confirm(runs, results_dir)
            here = {*waiting(results_dir)}.intersection(runs)
            uploaded += len(runs) - len(here)
            left |= here
            if len(here) == len(runs):  # the server is gone, rather than a run damaged
                break
    if left:
        raise NotUploaded(
            f"W&B did not take {len(left)} runs ({uploaded} were uploaded), the first of them {min(left)}; it said: "
            f"{_last_words(results_dir)}"
        )
    return uploaded


def _set_environment(results_dir: Path) -> None:
    """For W&B, in this process and the one that it starts; what the user has set stays."""
    for name, value in IMPATIENT.items():
        os.environ.setdefault(name, value)
    os.environ.pop("WANDB_MODE", None)  # it says what jobs do; an upload was asked for
    os.environ |= {"WANDB_DIR": str(results_dir), "WANDB_SILENT": "true"}


def _log_in(results_dir: Path) -> None:
    """Find out soon whether there is a key that a server takes."""
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
    """Run `wandb sync`, which retries for long, until it ends or no run more is marked in `PATIENCE` seconds."""
    with _log(results_dir).open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "wandb", "sync", *map(str, runs)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, "WANDB_SILENT": "false"},
        )
        try:
            _wait(process, results_dir)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)  # W&B's own process as well
                process.wait()


def _wait(process: subprocess.Popen[bytes], results_dir: Path) -> None:
    left, since = len(waiting(results_dir)), time.monotonic()
    while process.poll() is None and time.monotonic() - since < PATIENCE:
        time.sleep(0.1)
        if (now := len(waiting(results_dir))) < left:
            left, since = now, time.monotonic()


def _confirm(runs: list[Path], results_dir: Path) -> None:
    """Take the mark off runs that the server has in part alone: `wandb sync` marks them when it has tried."""
    notes = {run: found for run in runs if (found := _note(run))}
    whole: set[Path] = set()
    try:
        for project in {note["project"] for note in notes.values()}:
            named = {_wandb_id(run): run for run, note in notes.items() if note["project"] == project}
            whole |= _whole(project, named, {run: results_dir / notes[run]["row_file"] for run in named.values()})
    except Exception as error:  # the server is gone: nothing more is known to be there
        with _log(results_dir).open("a", encoding="utf-8") as log:
            log.write(f"wandb: ERROR {first_line(error)}\n")
    for run in notes.keys() - whole:
        _mark(run / f"run-{_wandb_id(run)}.wandb").unlink(missing_ok=True)


def _note(run: Path) -> dict[str, str] | None:
    """What `note` left; None where it is not there, or not as it was written."""
    try:
        found = json.loads((run / NOTE).read_text(encoding="utf-8"))
        return {"project": str(found["project"]), "row_file": str(found["row_file"])}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _whole(project: str, runs: dict[str, Path], row_files: dict[Path, Path]) -> set[Path]:
    """Those of the runs whose rows and scores the server has; scores that are not here either cannot be missed."""
    import wandb

    whole = set()
    for there in wandb.Api().runs(project, filters={"name": {"$in": list(runs)}}, lazy=False, include_sweeps=False):
        run = runs[there.id]
        scores = [
            artifact
            for artifact in there.logged_artifacts()
            if artifact.type == ARTIFACT and artifact.state == "COMMITTED"
        ]
        lacks_scores = not scores and row_files[run].with_suffix(".npz").exists()
        if isinstance(there.config.get(ROW_FILE), str) and not lacks_scores:
            whole.add(run)
    return whole


def _wandb_id(run: Path) -> str:
    (file,) = run.glob("run-*.wandb")
    return file.stem.removeprefix("run-")


def _mark(file: Path) -> Path:
    """What `wandb sync` leaves beside a file that it has uploaded."""
    return file.with_suffix(".wandb.synced")


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
