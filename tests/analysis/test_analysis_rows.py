import json
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from analysis_runs import command_of, run_name, write_grid, write_run
from scipy import stats

from analysis import load, load_arrays, load_scores, missing_jobs
from analysis.errors import Unavailable
from analysis.stats.intervals import holm, mean_interval, summarise
from analysis.stats.pairing import paired
from analysis.text.captions import caption
from analysis.text.labels import label, ordered_curves, ordered_tasks, task_name
from hies.errors import RowsWarning
from hies.runs.pack import pack
from hies.runs.schema import REQUIRED

ALPHA = "\N{GREEK SMALL LETTER ALPHA}"


def test_load_gives_a_line_a_ratio_in_a_fixed_order_and_ignores_temporary_files(tmp_path: Path) -> None:
    exp = tmp_path / "exp"
    write_run(exp, "his", seed=1)
    write_run(exp, "his", seed=0, ratios=(0.0, 0.1 + 0.2))
    (exp / ".half-written.jsonl").write_text("{")
    rows = load(tmp_path)
    assert list(zip(rows["seed"], rows["ratio"], strict=True)) == [(0, 0.0), (0, 0.3), (1, 0.0), (1, 0.4)]


def test_experiment_is_the_folder_and_can_be_chosen(tmp_path: Path) -> None:
    write_run(tmp_path / "one", "his")
    write_run(tmp_path / "two", "his")
    assert load(tmp_path, "two")["experiment"].unique().tolist() == ["two"]
    assert load(tmp_path)["experiment"].unique().tolist() == ["one", "two"]


@pytest.mark.parametrize(
    ("criterion", "knobs", "name"),
    [
        ("his", {"scope": "global", "schedule": "oneshot", "min_heads_per_layer": 0}, "HIS"),
        ("hies", {"alpha": 0.5, "normalize": "global"}, f"HIES ({ALPHA} = 0.5)"),
        ("hies", {"normalize": "rank", "alpha": 1.0}, f"HIES ({ALPHA} = 1, normalize = rank)"),
        ("hies", {"about": "x", "alpha": 0.25}, f"HIES ({ALPHA} = 0.25, about = x)"),
        ("ae", {"alpha": np.nan, "scope": "layer"}, "AE (scope = layer)"),
        ("l2", {"min_heads_per_layer": 1, "entropy": "renyi"}, "L2 (entropy = renyi, min heads = 1)"),
        ("new", {}, "new"),
        ("hies", {"alpha": "per_ratio"}, f"HIES ({ALPHA} per ratio)"),
        ("hies", {"alpha": "per_task", "normalize": "rank"}, f"HIES ({ALPHA}* per task, normalize = rank)"),
        ("hies", {"alpha": "auto"}, f"HIES ({ALPHA} auto)"),
        ("hies", {"alpha": "per_ratio_on_report"}, f"HIES ({ALPHA} per ratio, chosen on the report split)"),
        ("hies", {"alpha": "per_task_on_report"}, f"HIES ({ALPHA}* per task, chosen on the report split)"),
        ("hies", {"alpha": "by_dice"}, f"HIES ({ALPHA} = by_dice)"),
    ],
)
def test_label(criterion: str, knobs: dict, name: str) -> None:
    assert label(criterion, knobs) == name


def test_knobs_that_differ_make_curves_that_differ_and_missing_alpha_is_kept(tmp_path: Path) -> None:
    for alpha in (0.9, 0.1):
        write_run(tmp_path / "exp", "hies", alpha=alpha)
    write_run(tmp_path / "exp", "his", calibration_size=64)
    write_run(tmp_path / "exp", "random", unheard_of=[1, 2])
    rows = load(tmp_path)
    assert ordered_curves(rows.sample(frac=1, random_state=0)) == [
        f"HIES ({ALPHA} = 0.1)",
        f"HIES ({ALPHA} = 0.9)",
        "HIS, calibration size 64",
        "Random (unheard_of = [1, 2])",
    ]
    assert rows.groupby(["criterion", "alpha"], dropna=False).ngroups == 4
    counts = summarise(rows, "quality", ["criterion", "alpha", "ratio"])
    assert counts["n"].tolist() == [1] * 8


def test_rankings_of_seeds_of_their_own_are_curves_of_their_own(tmp_path: Path) -> None:
    def curves(name: str, *seeds: tuple[int, int]) -> dict[str, list[int]]:
        for seed, own in seeds:
            write_run(
                tmp_path / name, "random", seed=seed, **({} if own == seed else {"criterion_seed": own}), about=[1]
            )
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            return load(tmp_path, name).groupby("curve")["seed"].unique().map(list).to_dict()

    plain, *named = "Random (about = [1])", *(f"Random (about = [1], criterion seed = {own})" for own in (0, 1, 2))
    assert curves("one_draw", (0, 0), (0, 1), (0, 2)) == {plain: [0], named[1]: [0], named[2]: [0]}
    grid = [(seed, own) for seed in (0, 1, 2) for own in (0, 1)]
    assert curves("grid", *grid) == {named[0]: [0, 1, 2], named[1]: [0, 1, 2]}
    assert curves("anew", (0, 0), (1, 1), (2, 2)) == {plain: [0, 1, 2]}
    assert curves("both", (0, 0), (1, 1), (2, 2), (1, 0), (2, 0)) == {plain: [0, 1, 2], named[0]: [1, 2]}


def test_a_stray_run_is_named_and_renames_no_other_but_halves_are_both_named(tmp_path: Path) -> None:
    for task, strays in (("gsm8k", 1), ("mmlu", 2), ("rte", 0)):
        for seed in range(2 + strays):
            size = {"calibration_size": 7, "examples": 5} if seed > 1 else {}
            write_run(tmp_path / "exp", "his", seed, task=task, **size)
    curves = load(tmp_path).drop_duplicates(["task", "curve"]).groupby("task")["curve"].apply(sorted).to_dict()
    stray = "HIS, calibration size 7, 5 examples"
    assert curves == {
        "gsm8k": ["HIS", stray], "mmlu": ["HIS, 50 examples", stray], "rte": ["HIS"]
    }  # fmt: skip


def test_words_come_before_numbers_and_what_a_job_found_is_no_knob(tmp_path: Path) -> None:
    tuning = {"alphas": [0.1, 0.9], "tuning_seeds": 3, "tuning_examples": None}
    for alpha in ("auto", 0.5, "per_task", 0.25, "per_ratio_on_report", "per_ratio"):
        found = {"alpha_used": 0.9, "label_order": [1, 0], "quality_norm": 70.0, "calibration_source": "train"}
        write_run(tmp_path / "exp", "hies", alpha=alpha, **found, **(tuning if isinstance(alpha, str) else {}))
    write_run(tmp_path / "exp", "his")
    rows = load(tmp_path)
    assert ordered_curves(rows.sample(frac=1, random_state=0)) == [
        f"HIES ({ALPHA} per ratio)",
        f"HIES ({ALPHA}* per task)",
        f"HIES ({ALPHA} auto)",
        f"HIES ({ALPHA} per ratio, chosen on the report split)",
        f"HIES ({ALPHA} = 0.25)",
        f"HIES ({ALPHA} = 0.5)",
        "HIS",
    ]
    assert rows.loc[rows["criterion"] == "hies", "alpha_used"].eq(0.9).all()


def test_how_alpha_was_chosen_is_told_only_where_a_setting_holds_several_ways(tmp_path: Path) -> None:
    def run(task: str, **changes) -> None:
        tuning = {"alpha": "auto", "alphas": [0.1, 0.9], "tuning_seeds": 3, "tuning_examples": None, **changes}
        write_run(tmp_path / "exp", "hies", task=task, name=f"{task}-{changes}", **tuning)

    run("one")
    run("two")
    run("two", tuning_examples=2000)
    run("three", alphas=[0.5])
    run("three", tuning_seeds=1)
    write_run(tmp_path / "exp", "hies", task="one", alpha=0.5)
    run("one", alpha="per_ratio_on_report", tuning_examples=7)  # alone of its kind: nothing to tell apart
    curves = load(tmp_path).groupby("task")["curve"].unique().map(sorted)
    auto = f"HIES ({ALPHA} auto)"
    optimistic = f"HIES ({ALPHA} per ratio, chosen on the report split)"
    assert curves["one"] == [f"HIES ({ALPHA} = 0.5)", auto, optimistic]
    assert curves["two"] == [f"{auto}, 2000 tuning examples", f"{auto}, all tuning examples"]
    assert curves["three"] == [
        f"{auto}, 1 tuning seeds", f"{auto}, {ALPHA} from [0.5]",  # what most runs of all tasks have has no name
    ]  # fmt: skip


def test_code_from_outside_is_named_only_beside_other_code_of_the_same_method(tmp_path: Path) -> None:
    write_run(tmp_path / "exp", "his")
    write_run(tmp_path / "exp", "mine", beta=0.5, source="m.Mine@1")
    assert {*load(tmp_path)["curve"]} == {"HIS", "mine (beta = 0.5)"}
    write_run(tmp_path / "exp", "mine", seed=1, beta=0.5, source="m.Mine@2")
    curves = {"HIS", "mine (beta = 0.5), code m.Mine@1", "mine (beta = 0.5), code m.Mine@2"}
    assert {*load(tmp_path)["curve"]} == curves


def test_curves_of_several_calibration_sizes_are_in_the_order_of_their_sizes(tmp_path: Path) -> None:
    for size in (1024, 16, 128):
        write_run(tmp_path / "exp", "his", calibration_size=size)
    assert ordered_curves(load(tmp_path)) == [f"HIS, calibration size {size}" for size in (16, 128, 1024)]


def test_tasks_of_other_settings_have_curves_of_other_names(tmp_path: Path) -> None:
    for task, size, examples in (("cola", 32, 50), ("rte", 32, 60), ("mrpc", 128, 70)):
        write_run(tmp_path / "exp", "his", task=task, calibration_size=size, examples=examples)
    curves = load(tmp_path).groupby("task")["curve"].unique().map(list).to_dict()
    assert curves == {"cola": ["HIS"], "rte": ["HIS"], "mrpc": ["HIS, calibration size 128"]}
    for task, code in (("cola", 1), ("rte", 2)):
        write_run(tmp_path / "other", "mine", task=task, source=f"m.Mine@{code}")
    assert {*load(tmp_path, "other")["curve"]} == {"mine, code m.Mine@1", "mine, code m.Mine@2"}


def test_a_caption_names_tasks_as_people_do_in_the_papers_order(tmp_path: Path) -> None:
    for task in ("toy", "rte", "cola"):
        write_run(tmp_path / "exp", "his", task=task)
    mixed = pd.Series(["toy", "digit_questions", "mmvet", "vizwiz", "imagenet1k", "gsm8k", "docs", "piqa", "rte"])
    names = ["RTE", "PIQA", "Docs", "GSM8K", "ImageNet-1k", "VizWiz", "MM-Vet", "Digit questions", "toy"]
    assert [task_name(task) for task in ordered_tasks(mixed)] == names
    assert caption(load(tmp_path)).startswith("model tiny, tasks CoLA, RTE, toy, 50 examples, 1 seed (0)")
    rows = load(tmp_path)
    rows.loc[rows["task"] == "rte", "examples"] = 139
    assert caption(rows).startswith("model tiny, tasks CoLA, RTE, toy, 50 to 139 examples a task, 1 seed (0)")


def test_two_precisions_are_two_curves_and_no_pair(tmp_path: Path) -> None:
    for seed, keys in enumerate([{"precision": "bfloat16"}, {"precision": "float32"}, {}]):
        for criterion in ("his", "hies"):
            write_run(tmp_path / "exp", criterion, seed=seed, **keys)
    write_run(tmp_path / "exp", "hies", seed=3, precision="bfloat16")
    write_run(tmp_path / "exp", "his", seed=3, precision="float32")
    write_run(tmp_path / "alone", "his", precision="bfloat16")
    rows = load(tmp_path)
    names = {f"{name} precision" for name in ("bfloat16", "float32", "unknown")}
    assert {*rows["curve"]} == {"HIS", *(f"{criterion}, {name}" for criterion in ("HIS", "HIES") for name in names)}
    assert sorted(paired(rows)["seed"]) == [0, 1, 2]


def test_sites_are_a_knob_and_pairs_share_them(tmp_path: Path) -> None:
    for sites in (["decoder"], None):
        write_run(tmp_path / "exp", "his", sites=sites, name=f"his-{sites}")
        write_run(tmp_path / "exp", "hies", sites=sites, alpha=0.5, name=f"hies-{sites}")
    rows = load(tmp_path)
    hies = f"HIES ({ALPHA} = 0.5"
    assert ordered_curves(rows) == [f"{hies})", f'{hies}, sites = ["decoder"])', "HIS", 'HIS (sites = ["decoder"])']
    pairs = paired(rows)
    assert len(pairs) == 2 and all(Path(row.path).stem[4:] == Path(row.path_his).stem[3:] for row in pairs.itertuples())


def cut(path: Path) -> None:
    path.write_text(path.read_text()[:-20])


def cut_between_lines(path: Path) -> None:
    path.write_text(path.read_text().splitlines(keepends=True)[0])


def drop_a_key(path: Path) -> None:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    del rows[1]["stability"]
    path.write_text("\n".join(map(json.dumps, rows)))


def quality_as_text(path: Path) -> None:
    path.write_text(path.read_text().replace('"quality": 80.0', '"quality": "80"'))


def later_schema(path: Path) -> None:
    path.write_text(path.read_text().replace('"schema": 1', '"schema": 2'))


def no_unpruned_row(path: Path) -> None:
    path.write_text(path.read_text().splitlines()[1])


def empty(path: Path) -> None:
    path.write_text("")


def garbled_scores(path: Path) -> None:
    path.with_suffix(".npz").write_bytes(b"PK no zip file")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (cut, r"garbled line \(2\)"),
        (cut_between_lines, "1 ratios where its score file has 2"),
        (drop_a_key, "lacks stability in line 2"),
        (quality_as_text, "wrong type for quality in line 2"),
        (later_schema, "schema 2"),
        (no_unpruned_row, "ratio 0"),
        (empty, "ratio 0"),
        (garbled_scores, "cannot be read"),
    ],
)
def test_a_damaged_file_is_left_out_as_a_whole(tmp_path: Path, damage, reason: str) -> None:
    write_run(tmp_path / "exp", "his", seed=0)
    bad = write_run(tmp_path / "exp", "his", seed=1)
    damage(bad)
    with pytest.warns(RowsWarning, match=reason) as caught:
        rows = load(tmp_path)
    assert rows["seed"].tolist() == [0, 0]
    assert len(caught) == 1 and bad.name in str(caught[0].message)


def test_a_copied_file_does_not_count_as_another_run(tmp_path: Path) -> None:
    path = write_run(tmp_path / "exp", "his")
    path.with_name("copy.jsonl").write_text(path.read_text())
    with pytest.warns(RowsWarning, match=r"copy\.jsonl holds a run id"):
        assert len(load(tmp_path)) == 2


def test_two_runs_of_one_seed_count_once_and_the_declared_one_stays(tmp_path: Path) -> None:
    write_run(tmp_path / "exp", "his", name="a-stale-run", quality=(90, 10))
    write_run(tmp_path / "exp", "his", quality=(90, 70))
    with pytest.warns(RowsWarning, match="run-tiny-toy-his-s0 has the knobs and the seed of a-stale-run"):
        assert load(tmp_path)["quality"].tolist() == [90, 10]
    write_grid(tmp_path / "exp", ("his", 0))
    with pytest.warns(RowsWarning, match="a-stale-run has the knobs"):
        assert load(tmp_path)["quality"].tolist() == [90, 70]


@pytest.mark.parametrize("packed", [False, True])
def test_of_runs_with_other_ratios_the_one_declared_last_counts_and_neither_is_missing(
    tmp_path: Path, packed: bool
) -> None:
    exp = tmp_path / "results" / "exp"
    for name, ratios in (("a-few", (0.0, 0.3)), ("b-more", (0.0, 0.3, 0.7)), ("c-other", (0.0, 0.1))):
        write_run(exp, "his", name=name, ratios=ratios, quality=(90,) * len(ratios))
    with pytest.warns(RowsWarning, match="a-few, c-other has the knobs and the seed of b-more"):
        assert load(tmp_path / "results")["ratio"].tolist() == [0, 0.3, 0.7]  # none is declared: the most ratios
    declared = {"model": "tiny", "task": "toy", "criterion": "his", "parameters": {}, "seed": 0, "command": "c"}
    jobs = [{**declared, "run_id": name} for name in ("b-more", "never-run", "a-few", "c-other")]
    (exp / "grid.json").write_text(json.dumps({"jobs": jobs}))
    folder = tmp_path / "results"
    if packed:
        pack(exp, tmp_path / "packed" / "exp")
        folder = tmp_path / "packed"
    with pytest.warns(RowsWarning, match="a-few, b-more has the knobs .* of c-other"):
        rows = load(folder)
    assert rows["ratio"].tolist() == [0, 0.1]
    assert [job.run_id for job in missing_jobs(folder, rows)] == ["never-run"]
    assert set(rows["jobs_finished"]) == {3} and set(rows["jobs_declared"]) == {4}


def test_null_quality_is_undefined_not_zero(tmp_path: Path) -> None:
    write_run(tmp_path / "exp", "his", seed=0, quality=(90, None))
    write_run(tmp_path / "exp", "his", seed=1, quality=(90, 70))
    points = summarise(load(tmp_path), "quality", ["curve", "ratio"])
    pruned = points[points["ratio"] == 0.4].iloc[0]
    assert (pruned["mean"], pruned["n"], pruned["seeds"]) == (70, 1, 2)
    assert np.isnan(pruned["low"])


def test_an_empty_folder_gives_an_empty_frame_with_the_columns(tmp_path: Path) -> None:
    rows = load(tmp_path / "nowhere")
    assert rows.empty and {"quality", "curve", "jobs_declared"} <= set(rows)


def test_missing_jobs_are_named_with_their_command(tmp_path: Path) -> None:
    exp = tmp_path / "exp"
    write_grid(exp, ("his", 0), ("his", 1), ("ae", 0), ("ae", 1))
    write_run(exp, "his", seed=0)
    cut(write_run(exp, "ae", seed=1))
    (exp / f"{run_name('ae', 0)}.failed.json").write_text("{}")
    with pytest.warns(RowsWarning):
        rows = load(tmp_path)
    missing = missing_jobs(tmp_path, rows)
    assert [(job.criterion, job.seed, job.failed) for job in missing] == [
        ("his", 1, False), ("ae", 0, True), ("ae", 1, False),
    ]  # fmt: skip
    assert [job.command for job in missing] == [
        command_of("his", 1), command_of("ae", 0), command_of("ae", 1) + " force=true",
    ]  # fmt: skip
    assert set(rows["jobs_finished"]) == {1} and set(rows["jobs_declared"]) == {4}


def test_without_a_grid_only_failures_are_missing(tmp_path: Path) -> None:
    write_run(tmp_path / "exp", "his")
    (tmp_path / "exp" / "other.failed.json").write_text("{}")
    (tmp_path / "exp" / f"{run_name('his', 0)}.failed.json").write_text("{}")  # of an earlier try
    assert [job.run_id for job in missing_jobs(tmp_path, load(tmp_path))] == ["other"]


def test_a_garbled_grid_is_told_and_not_used(tmp_path: Path) -> None:
    write_run(tmp_path / "exp", "his")
    (tmp_path / "exp" / "grid.json").write_text('{"jobs": [{"run_id": "x"}]}')
    with pytest.warns(RowsWarning, match="is no list of jobs"):
        rows = load(tmp_path)
    assert rows["jobs_declared"].tolist() == [1, 1]


def test_mean_interval_by_hand() -> None:
    assert mean_interval([0, 4, 0, 0]) == (1.0, 0.0, 4.0, 4)  # of fewer than five values the range
    values = np.array([1.0, 0, 2, 5, 3])
    found = mean_interval(values)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert found == pytest.approx((2.2, expected.low, expected.high, 5))


def test_mean_interval_leaves_out_what_is_undefined_and_needs_two_values() -> None:
    one, none = mean_interval([np.nan, 7]), mean_interval([np.nan])
    assert (one.mean, one.n) == (7, 1) and np.isnan([one.low, one.high]).all()
    assert none.n == 0 and np.isnan(none.mean)


def test_mean_interval_does_not_depend_on_order_or_call() -> None:
    values = np.random.default_rng(0).normal(size=7)
    assert mean_interval(values[::-1]) == mean_interval(values)
    assert mean_interval(values).low < mean_interval(values, level=0.5).low


def test_holm_by_hand_and_no_test_is_none_of_them() -> None:
    # The smallest of three counts three times, the next twice; none may fall below one that was smaller.
    found = holm(np.array([0.03, np.nan, 0.01, 0.02]))
    np.testing.assert_allclose(found, [0.04, np.nan, 0.03, 0.04])
    assert holm(np.array([0.9, 0.8])).tolist() == [1, 1]


def test_load_scores_of_ragged_sites(tmp_path: Path) -> None:
    write_run(tmp_path / "exp", "his", scores=[1, 2, 3, 4, 5])
    scores = load_scores(load(tmp_path).iloc[1])
    np.testing.assert_array_equal(scores.rectangle("scores"), [[1, 2, np.nan], [3, 4, 5]])
    np.testing.assert_array_equal(scores.rectangle("ae"), [[5, 4, np.nan], [3, 2, 1]])
    np.testing.assert_array_equal(scores.removed({"second": [0, 2]}), [[False] * 3, [True, False, True]])


def test_load_scores_says_what_is_lacking(tmp_path: Path) -> None:
    path = write_run(tmp_path / "exp", "his", scores=[1.0, 2.0])
    row = load(tmp_path).iloc[0]
    with pytest.raises(Unavailable, match="one score for each head"):
        load_scores(row)
    path.with_suffix(".npz").unlink()
    with pytest.raises(Unavailable, match="missing"):
        load_scores(row)


def test_load_arrays_gives_predictions_that_fit_ratios_and_labels(tmp_path: Path) -> None:
    answers = np.array([[0, 1, 300], [1, 1, 0]])
    whole = {"predictions": answers, "labels": np.array([0, 1, 1])}
    write_run(tmp_path / "exp", "his", arrays=whole)
    arrays = load_arrays(load(tmp_path).iloc[0])
    assert arrays["predictions"].tolist() == answers.tolist() and arrays["labels"].tolist() == [0, 1, 1]
    write_run(tmp_path / "exp", "his", arrays={**whole, "labels": np.array([0, 1])})
    with pytest.raises(Unavailable, match="one prediction for each ratio and example"):
        load_arrays(load(tmp_path).iloc[0])
    texts = {"predictions": np.array([["12", ""], ["7", "7"]]), "labels": np.array(["12", "7"])}
    write_run(tmp_path / "exp", "his", arrays=texts)
    assert load_arrays(load(tmp_path).iloc[0])["predictions"].tolist() == [["12", ""], ["7", "7"]]
    write_run(tmp_path / "exp", "his")
    with pytest.raises(Unavailable, match="has no predictions and no labels"):
        load_arrays(load(tmp_path).iloc[0])


def test_a_job_is_named_by_the_knobs_that_it_has(tmp_path: Path) -> None:
    job = {"run_id": "x", "model": "tiny", "task": "toy", "criterion": "hies", "seed": 0, "command": "c",
           "parameters": {"alpha": "auto", "tuning_examples": None}}  # fmt: skip
    (tmp_path / "exp").mkdir()
    (tmp_path / "exp" / "grid.json").write_text(json.dumps({"jobs": [job]}))
    assert [str(job) for job in missing_jobs(tmp_path, load(tmp_path))] == ["tiny, toy, hies, alpha=auto, seed 0"]


def test_loading_clean_rows_warns_of_nothing(tmp_path: Path) -> None:
    write_run(tmp_path / "exp", "hies", alpha=0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert isinstance(load(tmp_path), pd.DataFrame)


def test_builder_writes_the_rows_of_the_contract(tmp_path: Path) -> None:
    path = write_run(tmp_path / "exp", "hies", alpha=0.5)
    written = [json.loads(line) for line in path.read_text().splitlines()]
    assert [set(REQUIRED) - set(row) for row in written] == [set(), set()]
    assert load(tmp_path)["quality"].tolist() == [90.0, 80.0]
