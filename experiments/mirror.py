"""Weights & Biases as a mirror of the rows: one run a job with its curve, heat maps, and an artifact of its scores."""

import os
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from experiments.job import Job
from hies.cache import read_arrays
from hies.results import Row

TIMEOUT = 15  # seconds to wait for a server before going on offline


def mirror(job: Job, rows: list[Row]) -> None:
    """Copy a finished job to W&B; whatever goes wrong there is said and never fails the job.

    A server that does not answer is not asked again by this process: its runs are kept offline, to be synced later.
    """
    for mode in _modes(job.config.wandb.mode):
        try:
            _mirror(job, rows, mode)
            return
        except Exception as error:  # a mirror must not cost a result
            tqdm.write(f"W&B ({mode}) did not take {job.run_id} ({error}); its rows are in {job.path}.")
            if mode == "online":
                _unreachable.add(mode)


_unreachable: set[str] = set()


def _modes(asked: str) -> list[str]:
    """What to try in turn: online, where that is asked for or an API key is at hand, and offline."""
    if asked == "disabled":
        return []
    online = asked == "online" or (asked == "auto" and _has_key())
    return [mode for mode in ("online" if online else "", "offline") if mode and mode not in _unreachable]


@cache
def _has_key() -> bool:
    import wandb

    return wandb.login(prompt=False, verify=False)


def _mirror(job: Job, rows: list[Row], mode: Any) -> None:
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    import wandb

    config = job.config
    constant = {key: value for key, value in rows[0].items() if key in rows[-1] and rows[-1][key] == value}
    with wandb.init(
        project=config.wandb.project,
        group=config.name,
        name=job.run_id,
        id=job.run_id,
        tags=[config.model.name, config.task.name, config.criterion.name],
        config=constant,
        dir=config.results_dir,
        mode=mode,
        resume="allow",
        settings=wandb.Settings(init_timeout=TIMEOUT, console="off", silent=True),
    ) as run:
        run.define_metric("*", step_metric="ratio")
        for row in rows:
            run.log({key: row[key] for key in ("ratio", "quality", "stability", "value", "parameters", "flops")})
        run.log({"ratio": rows[-1]["ratio"], **_heat_maps(job.path, wandb.Image)})
        artifact = wandb.Artifact(job.run_id, type="scores")
        artifact.add_file(str(job.path))
        artifact.add_file(str(job.path.with_suffix(".npz")))
        run.log_artifact(artifact)


def _heat_maps(path: Path, image: Any) -> dict[str, Any]:
    """Layer by head pictures of what was found, from lowest (black) to highest (white)."""
    arrays = read_arrays(path.with_suffix(".npz"))
    return {
        f"heads/{name}": image(_picture(arrays[name], arrays["heads"]))
        for name in ("scores", "his", "ae")
        if name in arrays
    }


def _picture(values: np.ndarray, heads: np.ndarray) -> np.ndarray:
    """[sites, largest number of heads] in 0..255, each head a square of 16 pixels."""
    spread = np.ptp(values) or 1.0
    rows = np.split(np.round(255 * (values - values.min()) / spread), np.cumsum(heads)[:-1])
    square = np.stack([np.pad(row, (0, heads.max() - len(row))) for row in rows]).astype(np.uint8)
    return np.kron(square, np.ones((16, 16), dtype=np.uint8))
