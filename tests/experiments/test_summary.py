"""The table at the end of a sweep, of jobs whose rows are made up."""

import re
from types import SimpleNamespace

from experiments.sweep import summary
from hies.runs.schema import BadRows


def job(criterion, seed, quality, *words, task="rte", results_dir="my results"):
    def rows():
        if quality is None:
            raise FileNotFoundError
        if quality == "damaged":
            raise BadRows("is damaged")
        return [{"ratio": ratio, "quality": value} for ratio, value in quality.items()]

    config = SimpleNamespace(
        model=SimpleNamespace(name="m"), task=SimpleNamespace(name=task), criterion=SimpleNamespace(name="x"),
        seed=seed, name="exp", results_dir=results_dir,
    )  # fmt: skip
    overrides = (f"task={task}", f"criterion={criterion}", f"seed={seed}", "calibration.size=7", *words)
    return SimpleNamespace(config=config, overrides=overrides, rows=rows)


def printed(jobs, capsys):
    summary.print_summary(jobs)
    return [re.split(r"  +", line.strip()) for line in capsys.readouterr().out.splitlines()]


def test_a_line_for_each_method_and_what_else_differs_a_column_for_each_ratio(capsys):
    jobs = [
        job("his", 0, {0.0: 90.0, 0.5: 71.0}, "sparsity.ratios=[0.5]"),
        job("his", 1, {0.0: 80.0, 0.5: 70.0}, "sparsity.ratios=[0.5]"),
        job("his", 1, {0.0: 80.0, 0.3: None}, "sparsity.ratios=[0.3]"),
        job("hies/auto", 0, {0.0: 90.0, 0.5: None}, "sparsity.scope=layer"),
        job("hies/auto", 0, {0.0: 90.0, 0.5: 33.0}),
        job("ae", 0, None),
        job("ae", 1, "damaged"),
    ]
    _, header, _, *lines, command = printed(jobs, capsys)
    assert header == ["model", "task", "method", "draws", "0 %", "30 %", "50 %"]
    assert lines == [
        ["m", "rte", "his", "2", "85.0", "undefined", "70.5"],
        ["m", "rte", "hies/auto, sparsity.scope=layer", "1", "90.0", "undefined"],
        ["m", "rte", "hies/auto", "1", "90.0", "33.0"],
    ]
    assert command == ["To draw it: python -m analysis --experiment exp --results 'my results' --out 'my results'"]


def test_a_mean_of_fewer_draws_than_the_line_has_says_how_many(capsys):
    jobs = [job("his", seed, {0.5: value}) for seed, value in ((0, 60.0), (1, None), (2, 70.0))]
    assert printed(jobs, capsys)[3] == ["m", "rte", "his", "3", "65.0 (2)"]


def test_a_large_table_is_cut_and_without_rows_there_is_none(capsys):
    assert printed([job("his", 0, None)], capsys) == []
    many = printed([job("his", 0, {0.5: 1.0}, task=f"t{place}") for place in range(47)], capsys)
    assert len(many) == 3 + summary.MOST_LINES + 2 and many[-2] == ["and 7 more lines."]


def test_tokens_of_a_mask_that_jobs_share_count_once():
    def row(task, ratio, removed, run="one", counted=(3, 10)):
        tokens = dict(zip(("tokens_computed", "tokens_plain"), counted, strict=True)) if counted else {}
        return {"task": task, "ratio": ratio, "mask": {"a": removed}, "heads_removed": len(removed), "run_id": run,
                "checkpoint": "c", "data": "d", "precision": "float32", **tokens}  # fmt: skip

    dense, half = row("piqa", 0, []), row("piqa", 0.5, [1], counted=(4, 10))
    rows = [dense, half, row("piqa", 0.5, [2]), row("piqa", 0.5, [], "sliced"), row("mmlu", 0, [], counted=(7, 10))]
    assert summary.token_lines([(None, rows), (None, [dense, half])]) == [
        "piqa: 13 tokens computed for the reported options, where lm-eval computes 40 (32 %).",
        "mmlu: 7 tokens computed for the reported options, where lm-eval computes 10 (70 %).",
        "all of them: 20 tokens computed for the reported options, where lm-eval computes 50 (40 %).",
    ]
    assert summary.token_lines([(None, [row("piqa", 0, [], counted=())])]) == []
