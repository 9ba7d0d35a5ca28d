"""Weights & Biases as a mirror of the rows: one run a job with its curve, heat maps, and an artifact of its scores.

A run is always written to `<results_dir>/wandb` first, which asks no server; another process uploads it.
"""

import os
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from experiments import sync
from experiments.job import Job
from experiments.secrets import redacted
from experiments.upload import upload
from hies.runs.files import Row
from hies.runs.wandb import ARTIFACT, ROW_FILE
from hies.storage import digest, read_arrays

TIMEOUT = 15  # seconds to wait for W&B's own process, which writes the files


def mirror(job: Job, rows: list[Row]) -> None:
    """Copy a finished job to W&B; whatever goes wrong there is said and never fails the job."""
    config = job.config
    if config.wandb.mode == "disabled":
        return
    os.environ |= {"WANDB_ERROR_REPORTING": "false", "WANDB_SILENT": "true"}  # else login asks the server
    try:
        _write(job, rows)
        if config.wandb.mode == "online" or (config.wandb.mode == "auto" and _has_key()):
            upload.start(Path(config.results_dir))
    except Exception as error:  # a mirror must not cost a result
        tqdm.write(redacted(f"W&B did not take {job.run_id} ({error}); its rows are in {job.path}."))


@cache
def _has_key() -> bool:
    import wandb

    return wandb.login(prompt=False, verify=False)


def _write(job: Job, rows: list[Row]) -> None:
    """An offline run, which has its place only once it is complete, so that no half of it is uploaded."""
    home = Path(job.config.results_dir) / "wandb"
    home.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=home) as folder:
        written = _write_offline(job, rows, folder)
        sync.note(written, job.config.wandb.project, f"{job.config.name}/{job.path.name}")
        earlier = home.glob(f"offline-run-*-{_wandb_id(job.config.name, job.run_id)}")
        for run in {*earlier} & {*sync.waiting(home.parent)}:  # what the job came to before it was forced
            shutil.rmtree(run)
        written.rename(home / written.name)


def _write_offline(job: Job, rows: list[Row], folder: str) -> Path:
    """The folder of the run below `folder`."""
    import wandb

    config = job.config
    with wandb.init(
        project=config.wandb.project,
        group=config.name,
        name=job.run_id,
        id=_wandb_id(config.name, job.run_id),
        tags=[config.model.name, config.task.name, config.criterion.name],
        # The row file as it is: `analysis --from wandb` makes the same one of it.
        config={**_constant(rows), ROW_FILE: job.path.read_text(encoding="utf-8")},
        dir=folder,
        mode="offline",
        settings=wandb.Settings(
            init_timeout=TIMEOUT,
            console="off",
            silent=True,
            save_code=False,
            disable_git=True,  # a diff of the source tree may hold anything
            x_disable_meta=True,  # and so may a command line
            x_disable_stats=True,
            x_save_requirements=False,
        ),
    ) as run:
        run.define_metric("*", step_metric="ratio")
        for row in rows:
            run.log({key: row[key] for key in ("ratio", "quality", "stability", "value", "parameters", "flops")})
        run.log({"ratio": rows[-1]["ratio"], **_heat_maps(job.path, wandb.Image)})
        artifact = wandb.Artifact(job.run_id, type=ARTIFACT)
        for file in (job.path, job.path.with_suffix(".npz")):
            # Immutable: read where it lies when the run is uploaded, not copied to the home folder.
            artifact.add_file(str(file.resolve()), policy="immutable")
        run.log_artifact(artifact)
    return Path(run.dir).parent


def _constant(rows: list[Row]) -> dict[str, Any]:
    """What the run's rows have in common."""
    return {key: value for key, value in rows[0].items() if key in rows[-1] and rows[-1][key] == value}


def _wandb_id(experiment: str, run_id: str) -> str:
    """Experiments may share a job, whose run id is then the same; at most 53 characters."""
    return f"{experiment[:40]}-{digest([experiment, run_id])}"


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
