"""The precision of matrix products, the machine that it is fast or slow on, and the chance of that machine."""

import warnings
from contextlib import AbstractContextManager
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # configurations read PRECISIONS without torch
    import torch

PRECISIONS = ("float32", "bfloat16")
AUTO = "auto"  # bfloat16 where the device has instructions for it, else float32; settled before anything is computed


def computing(precision: str, device: "torch.device") -> "torch.autocast":
    """Returns a context in which matrix products run in `precision`; weights stay as they are."""
    import torch

    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")


def chance_kept() -> AbstractContextManager[None]:
    """Returns a context after which random numbers go on as before it, those of GPUs that are in use as well."""
    import torch

    gpus = torch.cuda.device_count() if torch.cuda.is_initialized() else 0
    return torch.random.fork_rng(devices=range(gpus))


def has_bfloat16(device: "torch.device") -> bool:
    """Returns whether a processor or GPU is known to have instructions for bfloat16, which is emulated slowly else."""
    import torch

    if device.type == "cpu":  # avx512_bf16 and amx_bf16 of x86, bf16 and sve_bf16 of ARM
        return any(there for name, there in torch.cpu.get_capabilities().items() if "bf16" in name)
    if device.type == "cuda":
        with torch.cuda.device(device):
            return torch.cuda.is_bf16_supported(including_emulation=False)
    return False


@cache
def warn_if_slow(parameter: str, device: "torch.device") -> None:
    """Warns, once in a process, that a parameter which is bfloat16 makes this device slow."""
    if not has_bfloat16(device):
        warnings.warn(
            f"{parameter} is bfloat16, for which this {device.type} has no instructions: it may take many times as "
            f"long as float32, which makes other runs ({parameter}=float32).",
            stacklevel=2,
        )


def machine(device: "torch.device") -> dict[str, str]:
    """Returns what else than installed versions the last digits of a sum depend on, and with them a trained model."""
    import torch

    gpu = {"gpu": torch.cuda.get_device_name(device)} if device.type == "cuda" else {}
    return {"cpu": torch.backends.cpu.get_cpu_capability(), "threads": str(torch.get_num_threads()), **gpu}
