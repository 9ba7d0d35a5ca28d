"""Memory that pruning, saving and loading take, in sizes of the dense weights: `python -m benchmarks.memory`.

A LLaMA-shaped model with 1 GB of random weights loses heads at random and is saved, while the dense one is still held,
and once more in place, where it is not; a fresh process loads it. Each step runs in a process of its own, whose largest
resident memory is compared with that of a process that has only imported what they need.
"""

import argparse
import resource
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch
import transformers
from tabulate import tabulate
from tqdm import tqdm

import hies

LAYERS, HEADS = 4, 16
KIBI = 1 if sys.platform == "darwin" else 1024  # the unit of ru_maxrss
Step = Callable[[float, str], None]


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the peak of every step and ratio."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=(__doc__ or "").split(":")[0])
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.1, 0.5], help="shares of the heads that go")
    ratios = parser.parse_args(arguments).ratios
    if wrong := [ratio for ratio in ratios if not 0 <= ratio <= 1]:  # nan too
        parser.error(f"--ratios={wrong[0]:g} does not work; give shares from 0 to 1.")
    baseline = _peak(_nothing, 0.0, "")
    weights = _weight_bytes()
    rows = []
    for ratio in tqdm(ratios, unit="ratio"):
        with tempfile.TemporaryDirectory() as folder:
            peaks = [_peak(step, ratio, folder) - baseline for step in STEPS.values()]
        rows.append([f"{100 * ratio:g} %", *(peak / weights for peak in peaks)])
    print(f"Dense weights: {weights / 1e9:.2f} GB. Largest resident memory of each step / dense weights:")
    print(tabulate(rows, headers=["heads removed", *STEPS], floatfmt=".2f"))


def _peak(step: Step, ratio: float, folder: str) -> int:
    """The largest resident memory, in bytes, of a process that does one step."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_run, step, ratio, folder).result()


def _run(step: Step, ratio: float, folder: str) -> int:
    torch.set_num_threads(1)
    step(ratio, folder)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIBI


def _nothing(ratio: float, folder: str) -> None:
    pass


def _build(ratio: float, folder: str) -> None:
    _dense()


def _prune(ratio: float, folder: str) -> None:
    dense = _dense()
    hies.prune(dense, _removed(ratio))


def _save(ratio: float, folder: str) -> None:
    dense = _dense()  # held, as by somebody who goes on with it
    hies.save_pruned(hies.prune(dense, _removed(ratio)), Path(folder))


def _prune_in_place(ratio: float, folder: str) -> None:
    hies.prune(_dense(), _removed(ratio), inplace=True)


def _save_in_place(ratio: float, folder: str) -> None:
    hies.save_pruned(hies.prune(_dense(), _removed(ratio), inplace=True), Path(folder))


def _load(ratio: float, folder: str) -> None:
    for parameter in hies.load_pruned(folder).parameters():
        parameter.sum()  # what is loaded is read from the file when it is first used


STEPS: dict[str, Step] = {
    "build": _build,
    "+ prune": _prune,
    "+ save": _save,
    "+ prune in place": _prune_in_place,
    "+ save it": _save_in_place,
    "load": _load,
}


def _dense() -> transformers.LlamaForCausalLM:
    config = transformers.LlamaConfig(
        vocab_size=12000,
        hidden_size=2048,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=5504,
    )
    return transformers.LlamaForCausalLM(config)


def _weight_bytes() -> int:
    with torch.device("meta"):
        return sum(parameter.numel() * parameter.element_size() for parameter in _dense().parameters())


def _removed(ratio: float) -> dict[str, list[int]]:
    generator = torch.Generator().manual_seed(0)
    sites = [f"model.layers.{layer}.self_attn" for layer in range(LAYERS)]
    return hies.select({site: torch.rand(HEADS, generator=generator) for site in sites}, ratio)


if __name__ == "__main__":
    main()
