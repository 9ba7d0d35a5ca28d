"""How often intervals hold the truth: five draws of 500 examples on eight tasks, made up, of known true difference.

`python -m benchmarks.coverage` prints, in percent of the repetitions, how often 95 % intervals hold the truth: for one
task and for the mean of these eight the t interval of `analysis.stats.significance` and the percentile bootstrap over
draws and examples; for the mean over all tasks the t interval over the means of tasks and a hierarchical bootstrap.
"""

import argparse
from collections.abc import Callable

import numpy as np

from analysis.stats.significance import mean_over_tasks, of_seeds

TASKS, SEEDS, EXAMPLES, DRAWS = 8, 5, 500, 400
CHANGED, SHARED = 0.06, 0.5  # share of answers that differ, and of these what is the same for every draw
SCALES = {"normal": lambda rng, size: rng.normal(size=size), "skewed": lambda rng, size: rng.exponential(size=size) - 1}


def simulate(rng: np.random.Generator, tasks: np.ndarray, draw_sd: float, shape: Callable) -> np.ndarray:
    """Returns differences in points of every answer, [tasks, seeds, examples]; `tasks` are the true ones, [tasks]."""
    step = 100 * np.array([-1, 0, 1])
    chances = [CHANGED / 2, 1 - CHANGED, CHANGED / 2]
    same = rng.choice(step, p=chances, size=(len(tasks), 1, EXAMPLES))
    own = rng.choice(step, p=chances, size=(len(tasks), SEEDS, EXAMPLES))
    answers = np.where(rng.random(own.shape) < SHARED, same, own)
    return answers + tasks[:, None, None] + draw_sd * shape(rng, (len(tasks), SEEDS, 1))


def covered(rng: np.random.Generator, draw_sd: float, task_sd: float, shape: Callable, pools: list) -> list[bool]:
    """Returns for one repetition which intervals hold the truth, in the order of HEADINGS."""
    tasks = task_sd * shape(rng, TASKS)
    answers = simulate(rng, tasks, draw_sd, shape)
    samples, resampled = [], []
    for one, (examples, seeds) in zip(answers, pools, strict=True):
        by_draw = examples @ one.T / EXAMPLES  # [D, N] @ [N, S]
        samples.append(of_seeds(one.mean(axis=1), 1, np.nan, by_draw.mean(axis=1)))
        resampled.append((by_draw * seeds).sum(axis=1) / SEEDS)
    drawn, mean = np.array(resampled), mean_over_tasks(samples)
    chosen = rng.integers(0, TASKS, (DRAWS, TASKS))
    nested = drawn[chosen, rng.integers(0, DRAWS, (DRAWS, TASKS))].mean(axis=1)
    ends = [samples[0].estimate(), drawn[0], mean.estimate(), drawn.mean(axis=0), mean.over_tasks(), nested]
    truths = [tasks[0], tasks[0], tasks.mean(), tasks.mean(), 0, 0]
    pairs = [(end["low"], end["high"]) if isinstance(end, dict) else np.quantile(end, [0.025, 0.975]) for end in ends]
    return [bool(low <= truth <= high) for (low, high), truth in zip(pairs, truths, strict=True)]


HEADINGS = ("one task: t", "percentile", "these tasks: t", "percentile", "all tasks: t", "hierarchical")


def main() -> None:
    """Prints a line for each setting."""
    parser = argparse.ArgumentParser(description="Measure how often intervals hold the truth.", allow_abbrev=False)
    parser.add_argument("--repetitions", type=int, default=1000)
    if (repetitions := parser.parse_args().repetitions) < 1:
        parser.error(f"--repetitions={repetitions} does not work; give 1 or more.")
    print("| differences | sd of draws | sd of tasks |", " | ".join(HEADINGS), "|", sep=" ")
    rng = np.random.default_rng(0)
    counts = rng.multinomial(EXAMPLES, np.full(EXAMPLES, 1 / EXAMPLES), (TASKS, DRAWS)).astype(float)
    pools = list(zip(counts, rng.multinomial(SEEDS, np.full(SEEDS, 1 / SEEDS), (TASKS, DRAWS)), strict=True))
    for name, shape in SCALES.items():
        for draw_sd, task_sd in ((0.5, 0.5), (2, 0.5), (0.5, 2), (2, 2)):
            held = [covered(rng, draw_sd, task_sd, shape, pools) for _ in range(repetitions)]
            shares = " | ".join(f"{share:.1f}" for share in 100 * np.mean(held, axis=0))
            print(f"| {name} | {draw_sd:g} | {task_sd:g} | {shares} |", flush=True)


if __name__ == "__main__":
    main()
