"""Time and memory of scoring against the number of tokens: `python -m benchmarks.lengths`.

One text, a MiniLM-shaped model with random weights: a forward pass, HIS and AE, and the classical way where it fits.
The figure is docs/images/scoring-cost.png, or what --figure says.
"""

import argparse
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullLocator
from tabulate import tabulate
from tqdm import tqdm

import hies
from analysis import style
from benchmarks import classical
from benchmarks.peaks import extra_bytes
from benchmarks.rounds import conditions, in_turn, ratio
from benchmarks.scoring import forward, minilm, texts

FORWARD, SCORING, CLASSICAL = "forward pass", "HIS and AE, exact per example", "the classical way"
CLASSICAL_UP_TO = 2048  # tokens: it holds the weights of all layers, 1.2 GB there
LOOKS: dict[str, dict[str, Any]] = {
    FORWARD: {"color": "#0072B2", "marker": "s"},
    SCORING: {"color": "#D55E00", "marker": "o"},
    CLASSICAL: {"color": "#7F7F7F", "marker": "X"},
}
Points = Mapping[str, Mapping[int, float]]  # way -> tokens -> value


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the table, draw."""
    options = _options(arguments)
    megabytes: dict[str, dict[int, float]] = {name: {} for name in LOOKS}
    seconds: dict[str, dict[int, float]] = {name: {} for name in LOOKS}
    rows = []
    for tokens in tqdm(options.tokens, unit="length"):
        times = in_turn(_ways(tokens), max(options.rounds, 4096 // tokens), warm_up=0 if rows else 1)
        for name in times:
            seconds[name][tokens] = statistics.median(times[name])
            megabytes[name][tokens] = extra_bytes(_way, name, tokens) / 1e6
        rows.append(_row(tokens, times, megabytes))
    setting = f"One text, MiniLM's shape (6 layers of 12 heads, width 384), {conditions()}, medians over rounds"
    print(setting)
    others = [name for name in LOOKS if name != FORWARD]
    headers = ["tokens", "forward (s)", *(f"{name} (forwards)" for name in others), *(f"{name} (MB)" for name in LOOKS)]
    print(tabulate(rows, headers=headers, floatfmt=("d", ".3f", ".2f", ".2f", ".0f", ".0f", ".0f"), missingval="-"))
    with mpl.rc_context(style.RC):
        _draw(seconds, megabytes, f"{setting}. Memory: what a pass adds to the model.", options.figure)
    print(f"Written: {options.figure}")


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    about = (__doc__ or "").split(":")[0]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lengths", description=about)
    parser.add_argument("--tokens", type=int, nargs="+", default=[128, 256, 512, 1024, 2048, 4096, 8192])
    parser.add_argument("--rounds", type=int, default=2, help="of all ways in turn; more where they are short")
    parser.add_argument("--figure", type=Path, default=Path("docs/images/scoring-cost.png"))
    return parser.parse_args(arguments)


def _row(tokens: int, times: Mapping[str, Sequence[float]], megabytes: Points) -> list[float | None]:
    """Seconds of a forward pass, the other ways in forward passes, the memory of all."""
    base = times[FORWARD]
    ratios = [ratio(times[name], base) if name in times else None for name in LOOKS if name != FORWARD]
    return [tokens, statistics.median(base), *ratios, *(megabytes[name].get(tokens) for name in LOOKS)]


def _ways(tokens: int) -> dict[str, Callable[[], object]]:
    torch.manual_seed(0)
    model = minilm(positions=tokens)
    batch = texts(1, tokens) | {"attention_mask": torch.ones(1, tokens, dtype=torch.long)}
    ways: dict[str, Callable[[], object]] = {
        FORWARD: lambda: forward(model, batch),
        SCORING: lambda: hies.collect(model, [batch]),
    }
    if tokens <= CLASSICAL_UP_TO:
        ways[CLASSICAL] = lambda: classical.collect(model, [batch])
    return ways


def _way(name: str, tokens: int) -> Callable[[], object]:
    return _ways(tokens)[name]


def _draw(seconds: Points, megabytes: Points, caption: str, path: Path) -> None:
    canvas = style.new_figure(style.FIGURE_WIDTH, 4.4)
    panels = list(canvas.subplots(1, 2))
    _panel(panels[0], seconds, "Time", "seconds")
    _panel(panels[1], megabytes, "Memory", "MB")
    handles, labels = panels[0].get_legend_handles_labels()
    canvas.legend(handles, labels, loc="outside upper right", ncols=len(labels))
    style.headline(canvas, "What scoring costs", caption)
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas.savefig(path)


def _panel(axes: Axes, points: Points, title: str, unit: str) -> None:
    for name, look in LOOKS.items():
        axes.plot(list(points[name]), list(points[name].values()), label=name, **look)
    axes.set(xscale="log", yscale="log", xlabel="tokens", ylabel=unit, title=title)
    axes.set_xticks(list(points[FORWARD]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda tokens, _: f"{tokens:,.0f}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axes.grid(True)


if __name__ == "__main__":
    main()
