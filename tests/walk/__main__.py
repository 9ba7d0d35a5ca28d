"""Tries every model type of the installed transformers and writes docs/architectures.md: `python -m tests.walk`."""

import argparse
import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

import torch
import transformers as tf

from tests.walk import catalogue, page
from tests.walk.building import by_hand
from tests.walk.running import rows_in, walk


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.walk", description=__doc__)
    parser.add_argument("types", nargs="*", metavar="TYPE", help="model types; by default every one, and the page")
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time")
    parser.add_argument("--out", type=Path, default=Path("walk"), help="folder of rows.jsonl")
    parser.add_argument("--resume", action="store_true", help="leave out the types that rows.jsonl has")
    options = parser.parse_args()
    if unknown := [name for name in options.types if name not in catalogue.types()]:
        parser.error(f"TYPE is {unknown[0]!r}; transformers {tf.__version__} has no such model type")
    torch.set_num_threads(1)
    tf.logging.set_verbosity_error()
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "rows.jsonl"
    if not options.resume:
        path.unlink(missing_ok=True)
    names = options.types or [name for name in catalogue.types() if name in by_hand() or not catalogue.parent_of(name)]
    done = rows_in(path)
    walk([name for name in names if name not in done], options.jobs, path)
    rows = rows_in(path)
    for row in rows.values():
        for check, fault in row["faults"].items():
            print(f"FAULT {row['type']}: {check}: {fault}")
    for what, count in page.counts(rows):
        print(f"{count:4} {what}")
    if not options.types:
        page.write(rows)


if __name__ == "__main__":
    main()
