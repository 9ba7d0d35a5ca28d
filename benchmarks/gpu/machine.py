"""The device that is measured, its clock and its memory."""

import gc
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import torch
from torch import Tensor

from benchmarks.seven_billion import memory_of
from hies.runs.files import revision

Row = dict[str, Any]
WARM_UP = 2  # calls
AT_LEAST = 0.01  # seconds that a measurement takes: short calls are repeated
PACKAGES = ("torch", "transformers", "accelerate", "flash_attn", "triton")


@dataclass(frozen=True)
class Machine:
    """A device, and whether shapes are tiny.

    Attributes:
        device: cuda or cpu.
        tiny: shapes that a test runs in seconds, whose numbers mean nothing.
    """

    device: torch.device
    tiny: bool

    @property
    def cuda(self) -> bool:
        """The device is a GPU."""
        return self.device.type == "cuda"

    def wait(self) -> None:
        """Returns when the device has done what it was given."""
        if self.cuda:
            torch.cuda.synchronize(self.device)

    def once(self, way: Callable[[], object], calls: int = 1) -> float:
        """Returns the seconds that a call takes, the mean of some."""
        self.wait()
        started = time.perf_counter()
        for _ in range(calls):
            way()
        self.wait()
        return (time.perf_counter() - started) / calls

    def in_turn(self, ways: Mapping[str, Callable[[], object]], rounds: int = 5) -> dict[str, list[float]]:
        """Returns the seconds of each way in each round, after calls that warm up."""
        rounds = 1 if self.tiny else rounds
        firsts = {name: [self.once(way) for _ in range(WARM_UP)][-1] for name, way in ways.items()}
        calls = {name: 1 if self.tiny else max(1, round(AT_LEAST / first)) for name, first in firsts.items()}
        turns = [{name: self.once(way, calls[name]) for name, way in ways.items()} for _ in range(rounds)]
        return {name: [turn[name] for turn in turns] for name in ways}

    def peak(self, run: Callable[[], object], known: Iterable[Tensor]) -> int:
        """Returns the bytes that a call adds to the known tensors at its fullest moment; on a CPU operations count."""
        if not self.cuda:
            return memory_of(run, known).peak
        self.release()
        torch.cuda.reset_peak_memory_stats(self.device)
        before = torch.cuda.memory_allocated(self.device)
        run()
        self.wait()
        return torch.cuda.max_memory_allocated(self.device) - before

    def release(self) -> None:
        """Gives memory that nothing holds back to the device."""
        gc.collect()
        if self.cuda:
            torch.cuda.empty_cache()

    def describe(self) -> Row:
        """Returns the name of the device and the versions of what runs on it."""
        row: Row = {"device": "cpu", "revision": revision()}
        if self.cuda:
            found = torch.cuda.get_device_properties(self.device)
            row |= {"device": found.name, "memory_bytes": found.total_memory, "cuda": torch.version.cuda}
            row |= {"capability": f"{found.major}.{found.minor}", "cudnn": torch.backends.cudnn.version()}
        for package in PACKAGES:
            try:
                row[package] = metadata.version(package)
            except metadata.PackageNotFoundError:
                row[package] = None
        return row | self._ceilings()

    def _ceilings(self) -> Row:
        """Returns the speed of a large matrix product in bfloat16, and of a large copy: what nothing exceeds by far."""
        side = 64 if self.tiny else 8192
        one = torch.randn(side, side, device=self.device, dtype=torch.bfloat16)
        product, copy = torch.empty_like(one), torch.empty(1 << (12 if self.tiny else 28), device=self.device)
        times = self.in_turn({"product": lambda: torch.mm(one, one, out=product), "copy": copy.clone}, rounds=3)
        flops, moved = 2 * side**3, 2 * copy.nbytes
        return {"product_flops": flops / min(times["product"]), "copy_bytes": moved / min(times["copy"])}
