"""Measures on a GPU what was never measured, in parts, within some minutes: `python -m benchmarks.gpu --out DIR`.

Parts come in order of value, each under its own time limit: one that reaches it is stopped after the measurement in
hand, one that fails leaves its error in one line, and the next one goes on. DIR/gpu.jsonl and DIR/gpu.md are written
after each measurement, so that a run that is cut keeps what it has. A measurement that does not end is cut, too.
"""

import time

STARTED = time.monotonic()  # before torch is imported, which counts

import argparse  # noqa: E402
import importlib  # noqa: E402
import logging  # noqa: E402
import os  # noqa: E402
import sys  # noqa: E402
import threading  # noqa: E402
from collections.abc import Callable, Iterable, Sequence  # noqa: E402
from pathlib import Path  # noqa: E402

# Name -> share of the time; what one leaves over is for those after it.
SHARES = {"core": 2, "entropy": 3, "scoring": 5, "pruned": 5, "classifiers": 5, "digits": 1}
PATIENCE = 60  # seconds that a measurement may go on after the limit of its part
MARGIN = 0.05  # share of the time between the last limit and the end, for the measurement in hand


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the parts; the exit status is 0 if all of them ran, 1 if one failed, 2 if one did not end."""
    options = _options(arguments)
    import torch
    import transformers

    from benchmarks.gpu.machine import Machine
    from benchmarks.gpu.report import Report
    from hies.scoring import fused

    transformers.utils.logging.disable_progress_bar()
    torch.manual_seed(0)
    machine = Machine(torch.device(options.device), options.shapes == "tiny")
    setting = {"command": " ".join(("python -m benchmarks.gpu", *(sys.argv[1:] if arguments is None else arguments)))}
    report = Report(options.out, setting | {"shapes": options.shapes} | machine.describe())
    torch.backends.cudnn.allow_tf32 = False  # what is compared in float32 is computed in float32
    handler = logging.Handler()
    handler.emit = lambda record: report.trials.append(record.getMessage())  # type: ignore[method-assign]
    fused.logger.addHandler(handler)
    fused.logger.setLevel(logging.INFO)
    started = STARTED if arguments is None else time.monotonic()
    failed = run(machine, report, options.only, started + 60 * options.minutes)
    for line in report.limits():
        print("{what}: {measured}, limit {limit}, holds: {holds}".format(**line))
    print(f"Written: {options.out / 'gpu.md'}, {options.out / 'gpu.jsonl'}")
    return int(failed)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the folder of gpu.jsonl and gpu.md")
    parser.add_argument("--only", default=",".join(SHARES), help=f"parts, with commas between them: {','.join(SHARES)}")
    parser.add_argument("--minutes", type=float, default=6.0, help="for all parts together, the start included")
    parser.add_argument("--shapes", choices=("full", "tiny"), default="full", help="tiny: to try the command out")
    parser.add_argument("--device", help="cuda, or cpu (tiny shapes); by default cuda where torch finds one")
    options = parser.parse_args(arguments)
    options.only = [name.strip() for name in options.only.split(",")]
    if unknown := [name for name in options.only if name not in SHARES]:
        parser.error(f"--only={unknown[0]} does not work; the parts are {', '.join(SHARES)}.")
    if not 0 < options.minutes < float("inf"):
        parser.error(f"--minutes={options.minutes:g} does not work; give a positive number.")
    import torch

    found = torch.cuda.is_available()
    options.device = options.device or ("cuda" if found else "cpu")
    if options.device not in ("cuda", "cpu") or (options.device == "cuda" and not found):
        parser.error(
            f"--device={options.device} does not work; torch finds {'cuda and' if found else 'only'} cpu here."
        )
    if options.device == "cpu" and options.shapes == "full":
        parser.error("--shapes=full does not work without a GPU; --shapes=tiny tries the command out.")
    return options


def run(machine, report, names: Iterable[str], end: float, leave: Callable[[int], object] = os._exit) -> bool:
    """Runs parts until `end` on the monotonic clock; returns whether one failed.

    Args:
        machine: what they run on.
        report: what they fill.
        names: of the parts.
        end: when all must be done.
        leave: ends the process where a part does not end.
    """
    from benchmarks.gpu.report import Part, first_line

    names, failed, last = list(names), False, end - MARGIN * (end - time.monotonic())
    for place, name in enumerate(names):
        part, started = Part(name), time.monotonic()
        report.parts.append(part)
        if started >= last:
            part.state = "left out, no time"
            continue
        share = SHARES[name] / sum(SHARES[other] for other in names[place:])
        until = started + (last - started) * share
        watch = threading.Timer(min(until + PATIENCE, end) - started, _give_up, (report, part, started, leave))
        watch.daemon = True
        watch.start()
        try:
            part.module = importlib.import_module(f"benchmarks.gpu.{name}")
            part.state = _measured(part, machine, until, report, started)
        except Exception as error:  # whatever it is, the other parts go on
            failed, part.state = True, f"failed, {type(error).__name__}: {first_line(error)}"
        finally:
            watch.cancel()
        part.seconds = time.monotonic() - started
        report.write()
        print(f"{name}: {part.state}, {part.seconds:.0f} s", flush=True)
        machine.release()
    report.write()
    return failed


def _measured(part, machine, until: float, report, started: float) -> str:
    """Takes the rows of a part until its time is over; returns its state."""
    rows = part.module.measure(machine)
    for row in rows:
        part.rows.append({"kind": "measured", **row})
        part.seconds = time.monotonic() - started
        report.write()
        if time.monotonic() >= until:
            rows.close()
            return "stopped at its time limit"
    return "whole"


def _give_up(report, part, started: float, leave: Callable[[int], object]) -> None:
    """Writes what there is and ends the process: the thread that measures does not come back."""
    part.state, part.seconds = "cut, a measurement did not end", time.monotonic() - started
    report.write()
    print(f"{part.name}: {part.state}", file=sys.stderr, flush=True)
    leave(2)


if __name__ == "__main__":
    sys.exit(main())
