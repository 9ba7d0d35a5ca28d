"""Ways to do something, timed in turn, round after round, so that what else the machine does falls on all alike."""

import argparse
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import torch
from tqdm import tqdm

Ways = Mapping[str, Callable[[], object]]


def check_options(parser: argparse.ArgumentParser, options: argparse.Namespace, **bounds: tuple[int, int]) -> None:
    """Ends with a sentence where a number is outside its bounds, or --out is no folder and cannot be made one."""
    for name, (least, most) in bounds.items():
        if not least <= getattr(options, name) <= most:
            parser.error(f"--{name}={getattr(options, name)} does not work; give {least} to {most}.")
    out = getattr(options, "out", None)
    if out is not None:
        try:
            out.mkdir(parents=True, exist_ok=True)  # now, rather than after the measuring
        except OSError as problem:
            parser.error(f"--out={out} does not work ({problem.strerror}); name a folder.")


def in_turn(ways: Ways, rounds: int, warm_up: int = 1) -> dict[str, list[float]]:
    """Seconds of each way in each round; the rounds that warm up come first and do not count."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in tqdm(range(warm_up + rounds), unit="round", leave=False):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - started)
    return {name: times[warm_up:] for name, times in seconds.items()}


def ratio(seconds: Sequence[float], of: Sequence[float]) -> float:
    """The median over rounds of the ratio within a round."""
    return statistics.median(one / other for one, other in zip(seconds, of, strict=True))


def conditions() -> str:
    """Threads, and how many processes of the whole machine want its cores."""
    threads = torch.get_num_threads()
    return f"{threads} thread{'s' if threads > 1 else ''}, load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
