"""Weights & Biases as a mirror of the rows: one run a job with its curve, heat maps, and an artifact of its scores.

A job writes an offline run to `<results_dir>/wandb`, which asks no server; `experiments.sync` uploads what lies there,
once, when a command that has done jobs ends.
"""

import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from experiments import sync
from experiments.config.schema import Config
from experiments.sweep.job import Job
from experiments.sweep.progress import say
from hies.runs.files import Row
from hies.runs.schema import LOSSES
from hies.runs.wandb import ARTIFACT, ROW_FILE
from hies.storage import digest, read_arrays

INIT_TIMEOUT = 15  # seconds to wait for W&B's own process, which writes the files
LAST = 10.0  # seconds that a command waits at its end for the upload, which then goes on by itself
SECRET_NAMES = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?)$", re.IGNORECASE)
SHORTEST_SECRET = 6  # characters; a shorter value would hide ordinary words
MIRRORED = ("quality", "stability", *LOSSES.values())
CURVE = ("ratio", *MIRRORED, "value", "parameters", "flops")
QUIET = {"WANDB_ERROR_REPORTING": "false", "WANDB_SILENT": "true"}


def redacted(text: str) -> str:
    """Returns the text with three stars for every value that the environment calls a key, a token or a password."""
    for name, value in os.environ.items():
        if SECRET_NAMES.search(name) and len(value) >= SHORTEST_SECRET:
            text = text.replace(value, "***")
    return text


def mirror(job: Job, rows: list[Row]) -> None:
    """Writes the offline run of a finished job; whatever goes wrong there is said and never fails the job."""
    if _mode(job.config) == "disabled":
        return
    os.environ |= QUIET
    try:
        _write(job, rows)
    except Exception as error:  # a mirror must not cost a result
        say(redacted(f"W&B did not take {job.run_id} ({error}); its rows are in {job.path}."))


def upload(config: Config) -> None:
    """Uploads what lies in `<results_dir>/wandb`, in a process that is waited for a little and then left alone."""
    results_dir = Path(config.results_dir).resolve()
    mode = _mode(config)
    wanted = mode in ("auto", "online") and sync.waiting(results_dir)
    if not wanted or (mode == "auto" and not _has_key()):
        return
    log = results_dir / "wandb" / "sync.log"
    process = sync.start(["experiments.sync", str(results_dir)], log, OMP_NUM_THREADS="1")
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(LAST)
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith("error: "):
            say(line.removeprefix("error: "))
    if missing := len(sync.waiting(results_dir)):
        say(f"W&B: {missing} runs in {results_dir}/wandb are not uploaded yet; `make sync` uploads them.")


def _mode(config: Config) -> str:
    """Returns the mode of the option; where that is `auto`, what W&B's own variable says, if anything.

    What it may say besides (`dryrun`, or a slip) is taken for offline: nothing is uploaded against its word.
    """
    said = os.environ.get("WANDB_MODE")
    if config.wandb.mode != "auto" or not said:
        return config.wandb.mode
    return said if said in ("online", "disabled") else "offline"


def _has_key() -> bool:
    import wandb

    os.environ |= QUIET  # else login asks the server
    return bool(wandb.login(prompt=False, verify=False))


def _write(job: Job, rows: list[Row]) -> None:
    """An offline run, which has its place only once it is complete, so that no half of it is uploaded."""
    home = Path(job.config.results_dir) / "wandb"
    home.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=home) as folder:
        written = _write_offline(job, rows, folder)
        note = {"project": job.config.wandb.project, "row_file": f"{job.config.name}/{job.path.name}"}
        (written / sync.NOTE_FILE).write_text(json.dumps(note), encoding="utf-8")
        earlier = home.glob(f"offline-run-*-{_wandb_id(job.config.name, job.run_id)}")
        for run in {*earlier} & {*sync.waiting(home.parent)}:  # what the job came to before it was forced
            shutil.rmtree(run)
        written.rename(home / written.name)


def _write_offline(job: Job, rows: list[Row], folder: str) -> Path:
    """Returns the folder of the run below `folder`."""
    import wandb

    config = job.config
    constant = {key: value for key, value in rows[0].items() if key in rows[-1] and rows[-1][key] == value}
    with wandb.init(
        project=config.wandb.project,
        group=config.name,
        name=job.run_id,
        id=_wandb_id(config.name, job.run_id),
        tags=[config.model.name, config.task.name, config.criterion.name],
        # The row file as it is: `analysis --from wandb` makes the same one of it.
        config={**constant, ROW_FILE: job.path.read_text(encoding="utf-8")},
        dir=folder,
        mode="offline",
        settings=wandb.Settings(
            init_timeout=INIT_TIMEOUT,
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
            run.log({key: row[key] for key in CURVE if key in row})
        run.log({"ratio": rows[-1]["ratio"], **_heat_maps(job.path, wandb.Image)})
        run.summary.update(summary_of(rows))
        artifact = wandb.Artifact(job.run_id, type=ARTIFACT)
        for file in (job.path, job.path.with_suffix(".npz")):
            # Immutable: read where it lies when the run is uploaded, not copied to the home folder.
            artifact.add_file(str(file.resolve()), policy="immutable")
        run.log_artifact(artifact)
    return Path(run.dir).parent


def _wandb_id(experiment: str, run_id: str) -> str:
    """Experiments may share a job, whose run id is then the same; at most 53 characters."""
    return f"{experiment[:40]}-{digest([experiment, run_id])}"


def summary_of(rows: list[Row]) -> dict[str, float]:
    """Returns what a table of runs is sorted by: each measure at 50 %, and the mean height of its curve.

    The latter is the area under the curve by its width; its name says up to which ratio it goes, since areas of other
    widths are not comparable. What some row lacks, or leaves undefined, is left out.
    """
    ratios = np.array([row["ratio"] for row in rows])
    half = [row for row in rows if abs(row["ratio"] - 0.5) < 1e-6]
    summary: dict[str, float] = {}
    for name in MIRRORED:
        summary |= {f"{name}_at_50": row[name] for row in half if row.get(name) is not None}
        values = [row.get(name) for row in rows]
        if len(rows) > 1 and None not in values:
            area = np.trapezoid(np.array(values, dtype=float), ratios) / np.ptp(ratios)
            summary[f"{name}_area_to_{100 * ratios.max():g}"] = float(area)
    return summary


def _heat_maps(path: Path, image: Any) -> dict[str, Any]:
    """Drawn maps, layer by head, of scores and statistics."""
    arrays = read_arrays(path.with_suffix(".npz"))
    names = {"scores": "scores: the lowest go first", "his": "HIS", "ae": "AE"}
    drawn = {name: _heat_map(arrays[name], arrays["heads"], title) for name, title in names.items() if name in arrays}
    return {f"heads/{name}": image(_picture(figure)) for name, figure in drawn.items()}


def _picture(figure: Any) -> Any:
    """Returns it drawn; of a figure itself W&B would ask that matplotlib's windows be there."""
    from PIL import Image

    file = io.BytesIO()
    figure.savefig(file, format="png")
    return Image.open(file)


def _heat_map(values: np.ndarray, heads: np.ndarray, title: str) -> Any:
    """Returns a figure of values [sum of heads]: a line for each layer, blank where it has fewer heads than others."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    lines = np.split(values.astype(float), np.cumsum(heads)[:-1])
    square = np.stack([np.pad(line, (0, heads.max() - len(line)), constant_values=np.nan) for line in lines])
    layers, most = square.shape  # [layers, most heads]
    figure = Figure(figsize=(2.2 + 0.3 * most, 1.4 + 0.3 * layers), dpi=100, layout="constrained")
    axes = figure.subplots()
    cells = axes.imshow(square, cmap="viridis", aspect="auto")
    axes.set(title=title, xlabel="head", ylabel="layer")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(min(12, max(square.shape)), integer=True))
    figure.colorbar(cells, ax=axes)
    return figure
