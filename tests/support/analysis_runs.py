"""The results folder that the tests of analysis read."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

HEADS = {"first": 2, "second": 3}
ALPHA = "\N{GREEK SMALL LETTER ALPHA}"
RATIOS = (0.0, 0.1, 0.3, 0.5)
TUNED = {"alpha": "per_ratio", "normalize": "global", "alphas": [0.9, 0.5], "tuning_seeds": 3, "tuning_examples": 250}
HIES, HIES_BATCH = f"HIES ({ALPHA} per ratio)", f"HIES ({ALPHA} per ratio, per batch)"


def run_name(criterion: str, seed: int, model: str = "tiny", task: str = "toy", **knobs: Any) -> str:
    return "-".join(["run", model, task, criterion, f"s{seed}", *(f"{k}{v}" for k, v in knobs.items())])


def write_run(
    folder: Path,
    criterion: str,
    seed: int = 0,
    quality: tuple[float | None, ...] = (90.0, 80.0),
    stability: tuple[float, ...] | None = None,
    ratios: tuple[float, ...] = (0.0, 0.4),
    masks: tuple[dict[str, list[int]], ...] | None = None,
    scores: list[float] | None = None,
    heads: dict[str, int] = HEADS,
    arrays: dict[str, Any] | None = None,
    name: str | None = None,
    losses: tuple[float | None, ...] | None = None,
    **keys: Any,
) -> Path:
    """One finished job; `keys` are added to every row (knobs, or any key of the contract)."""
    total = sum(heads.values())
    fields = {"model": "tiny", "task": "toy", **{k: v for k, v in keys.items() if k in ("model", "task")}}
    knobs = {key: value for key, value in keys.items() if key not in fields}
    name = re.sub(r"[^\w.-]", "_", name or run_name(criterion, seed, **fields, **knobs))
    common = {
        "schema": 1, "run_id": name, "experiment": folder.name, **fields, "split": "report", "criterion": criterion,
        "scope": "global", "schedule": "oneshot", "min_heads_per_layer": 0, "seed": seed, "calibration_size": 32,
        "heads_total": total, "metric": "accuracy", "examples": 50, "score_seconds": 0.1, "eval_seconds": 0.1,
        "parameters": 10, "flops": 10, "checkpoint": "c", "data": "d", "versions": {}, "revision": None,
        "command": command_of(criterion, seed), **knobs,
    }  # fmt: skip
    masks = masks or tuple({} if ratio == 0 else {"first": [0], "second": [1]} for ratio in ratios)
    stability = stability or tuple(100.0 - 50 * ratio for ratio in ratios)
    rows = [
        {
            **common, "ratio": ratio, "mask": mask, "heads_removed": sum(map(len, mask.values())), "quality": value,
            "value": None if value is None else value / 100, "stability": agreement,
        }
        for ratio, mask, value, agreement in zip(ratios, masks, quality, stability, strict=True)
    ]  # fmt: skip
    for row, loss in zip(rows, losses or (), strict=bool(losses)):
        row["loss"] = loss
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    flat = np.arange(total, dtype=float) if scores is None else np.array(scores)
    np.savez(
        path.with_suffix(".npz"),
        **{
            "sites": np.array(list(heads)), "heads": np.array(list(heads.values())), "scores": flat, "his": flat,
            "ae": flat[::-1].copy(), "ratios": np.array(ratios), **(arrays or {}),
        },
    )  # fmt: skip
    return path


def command_of(criterion: str, seed: int) -> str:
    return f"python -m experiments.run criterion={criterion} seed={seed}"


def write_grid(folder: Path, *cells: tuple[str, int]) -> None:
    """Declare one job for each (criterion, seed) of the model tiny and the task toy."""
    folder.mkdir(parents=True, exist_ok=True)
    jobs = [
        {"run_id": run_name(criterion, seed), "model": "tiny", "task": "toy", "criterion": criterion,
         "parameters": {}, "seed": seed, "command": command_of(criterion, seed)}
        for criterion, seed in cells
    ]  # fmt: skip
    (folder / "grid.json").write_text(json.dumps({"jobs": jobs}), encoding="utf-8")


def answers_right_in(shares: tuple[float, ...], examples: int = 200, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels and predictions right for the first share of the examples (of a shuffled order), one share a ratio."""
    labels = np.arange(examples) % 2
    order = np.random.default_rng(seed).permutation(examples)
    rank = np.empty(examples)
    rank[order] = np.arange(examples)
    return labels, np.array([np.where(rank < share * examples, labels, 1 - labels) for share in shares])


def write_answers(
    folder: Path,
    criterion: str,
    seed: int,
    labels: np.ndarray,
    answers: np.ndarray,
    task: str = "toy",
    metric: str = "accuracy",
    ratios: tuple[float, ...] = RATIOS,
    **knobs: Any,
) -> None:
    """A run of these predictions [ratios, examples]; the measures in its rows play no part in what is tested here."""
    write_run(
        folder / "exp", criterion, seed, (50.0,) * len(answers), ratios=ratios[: len(answers)], task=task,
        metric=metric, arrays={"predictions": answers, "labels": labels},
        name=f"{task}-{criterion}-{seed}-{'-'.join(map(str, knobs.values()))}", **knobs,
    )  # fmt: skip


def right_in(folder: Path, criterion: str, *shares: float, seeds: int = 5, task: str = "toy", **knobs: Any) -> None:
    """Runs right in these shares of 200 examples, one share a ratio; the examples differ from seed to seed."""
    for seed in range(seeds):
        write_answers(folder, criterion, seed, *answers_right_in(shares, seed=seed), task=task, **knobs)


def hies(folder: Path, alpha: Any, used: float | None = None, **options: Any) -> None:
    """A run of HIES as a job writes it, with the alpha that made each mask."""
    knobs = {"alphas": [0.9, 0.5], "tuning_seeds": 3, "tuning_examples": None} if isinstance(alpha, str) else {}
    number = used if used is not None else alpha
    name = f"{options.get('task', 'toy')}-{options.get('seed', 0)}-{alpha}-{options.get('calibration_size', '')}"
    write_run(folder, "hies", alpha=alpha, alpha_used=number, name=name, **knobs, **options)
