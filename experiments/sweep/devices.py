"""What a process computes on: a GPU of its own, where several processes share a machine; and what it prints."""

import os
import tempfile
from collections.abc import Sequence
from functools import cache
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import filelock

from hies.errors import ParameterError

if TYPE_CHECKING:
    import torch

_held: list[filelock.BaseFileLock] = []  # a lock is let go when nothing refers to it


@cache
def own_device() -> str:
    """Returns the device of `device=auto`: the same in every call, and shared with few other processes.

    A process that sees one GPU takes it (as a job of a cluster does); one that sees several claims one of them until it
    ends.
    """
    import torch

    gpus = torch.cuda.device_count()
    if gpus < 2:
        return "cuda" if gpus else "cpu"
    folder = Path(tempfile.gettempdir()) / f"hies-gpus-{os.getuid()}"
    index = claim(visible(os.environ.get("CUDA_VISIBLE_DEVICES"), gpus), folder)
    torch.cuda.set_device(index)  # for libraries that take the current device
    return f"cuda:{index}"


def unclaimed_device(name: str) -> "torch.device":
    """Returns a device like that of an option, for a process that plans and computes nothing: no GPU is claimed."""
    import torch

    gpu_or_cpu = "cuda" if torch.cuda.is_available() else "cpu"
    return checked_device(gpu_or_cpu if name == "auto" else name)


def checked_device(name: str) -> "torch.device":
    """Returns the device of an option; `auto` is that of `own_device`.

    Raises:
        ParameterError: there is none of this name.
    """
    import torch

    try:
        device = torch.device(own_device() if name == "auto" else name)
        torch.zeros(1, device=device).tolist()  # not of meta, which has no numbers
    except (RuntimeError, AssertionError, ImportError):  # the last of names that a package would add
        raise ParameterError("device", name, "use auto, cpu, or a device that torch can see") from None
    return device


def check_device_name(name: str) -> None:
    """Raises ParameterError for a name that torch knows on no machine; the device itself may be elsewhere."""
    if name in ("auto", "cpu"):  # known without torch, which takes seconds to import
        return
    import torch

    try:
        torch.device(name)
    except RuntimeError:
        raise ParameterError("device", name, "use auto, cpu, or a device that torch can see") from None


def visible(variable: str | None, gpus: int) -> list[str]:
    """Returns names of the GPUs that a process sees, the same in processes that see different ones of them."""
    names = [name.strip() for name in (variable or "").split(",")]
    return names if len(names) == gpus else [str(index) for index in range(gpus)]


def claim(names: Sequence[str], folder: Path) -> int:
    """Returns the position in `names` of the GPU that the fewest processes have claimed.

    It is held until this process ends. A file lock stands for a place on a GPU: the first round of places is taken
    before the second begins.
    """
    folder.mkdir(mode=0o700, exist_ok=True)
    for place in count():
        lock = filelock.FileLock(folder / f"{names[place % len(names)]}.{place // len(names)}")
        try:
            lock.acquire(blocking=False)
        except filelock.Timeout:
            continue
        _held.append(lock)
        return place % len(names)
    raise AssertionError("count() does not end")


def local_workers(device: str) -> int:
    """Returns the number of processes that this machine takes: one a GPU, else half of the cores.

    Half, since each process loads a model and data of its own, and gains from a second core.
    """
    import torch

    gpus = torch.cuda.device_count() if device == "auto" else int(device != "cpu")
    return gpus or max(2, cpu_count() // 2)


def cpu_count() -> int:
    """Returns the cores that this process may use, whoever limits them (its affinity, its control group)."""
    import joblib

    return int(joblib.cpu_count())


def silence_libraries() -> None:
    """Shows nothing but errors of transformers and the Hub in this process."""
    import huggingface_hub
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    huggingface_hub.logging.set_verbosity_error()
