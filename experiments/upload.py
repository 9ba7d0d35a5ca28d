"""Uploads W&B runs beside the work: a process that no job waits for."""

import atexit
import os
import subprocess
import sys
import time
from pathlib import Path

from tqdm import tqdm

from experiments.sync import waiting

EVERY = 30.0  # seconds from one start to the next: a start costs as much as uploading a few runs
LAST = 10.0  # seconds that the end of a process waits for its upload, which then goes on by itself
ROOT = Path(__file__).parent.parent


class Upload:
    """The upload that this process started last; after one that failed it starts no other."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._results = Path()
        self._started = -EVERY
        self._failed = False

    def start(self, results_dir: Path) -> None:
        """Upload what lies in `<results_dir>/wandb`, soon; and what came later when this process ends."""
        if results_dir.resolve() != self._results:
            self._results = results_dir.resolve()
            atexit.unregister(self.finish)
            atexit.register(self.finish)
        if not self._busy() and not self._failed and time.monotonic() - self._started >= EVERY:
            self._start()

    def finish(self) -> None:
        """Start on what is left, wait a little, and say how many runs are not uploaded yet."""
        until = time.monotonic() + LAST
        if not self._waits(until) and waiting(self._results) and not self._failed:
            self._start()
            self._waits(until)
        if left := len(waiting(self._results)):
            where = f"{self._results}/wandb"
            tqdm.write(f"W&B: {left} runs in {where} are not uploaded yet; `make sync` uploads them.", file=sys.stderr)

    def _start(self) -> None:
        self._started = time.monotonic()
        with (self._results / "wandb" / "sync.log").open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "experiments.sync", str(self._results)],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # so that it outlives a job and is not interrupted with it
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )

    def _busy(self) -> bool:
        """Whether the process is at work; one that failed is said, once."""
        if self._process is None or (status := self._process.poll()) is None:
            return self._process is not None
        if status and not self._failed:
            self._failed = True
            said = (self._results / "wandb" / "sync.log").read_text(encoding="utf-8", errors="replace").splitlines()
            why = [line.removeprefix("error: ") for line in said if line.startswith("error: ")]
            tqdm.write(why[-1] if why else f"The upload to W&B ended with status {status}.", file=sys.stderr)
        return False

    def _waits(self, until: float) -> bool:
        """Wait for the process if it is at work, at most to a time of the monotonic clock; whether it still is."""
        if self._process is not None and self._busy():
            try:
                self._process.wait(max(until - time.monotonic(), 0.01))
            except subprocess.TimeoutExpired:
                return True
        return self._busy()


upload = Upload()
