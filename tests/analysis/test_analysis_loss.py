"""The loss as a measure: less is better wherever curves are compared, units are named, what is missing is missing."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from analysis_runs import write_run
from scipy.optimize import minimize_scalar
from scipy.stats import t
from shown import caption_of, line, lines

from analysis import load
from analysis.cli import main
from analysis.data.answers import with_measure
from analysis.errors import Unavailable
from analysis.figures.curves import draw_curves
from analysis.figures.forest import draw_forest
from analysis.figures.methods import draw_methods
from analysis.figures.tasks import draw_all_tasks, mean_of_tasks
from analysis.stats.resampling import example_counts, tempered_losses
from analysis.stats.significance import MEAN, gains_over_his, samples_at
from analysis.stats.variants import compare
from analysis.tables.differences import CLAIMS, against_table, claims_table, significance_table, variants_table
from analysis.tables.measures import summary_table

RATIOS = (0.0, 0.3, 0.5)
EXAMPLES = 53
LOSS = ("loss",)


def write(
    folder: Path,
    criterion: str,
    seed: int,
    level: float | None,
    task: str = "toy",
    metric: str = "accuracy",
    **keys: Any,
) -> np.ndarray | None:
    """A run whose losses are around `level`, more at higher ratios; None: a run of before they were measured.

    By quality and stability all curves are the same. Returns the losses [ratios, examples].
    """
    labels = np.arange(EXAMPLES) % 2
    if metric == "pearson":
        labels = np.linspace(0, 5, EXAMPLES, dtype=np.float32)
    arrays: dict[str, Any] = {"labels": labels, "predictions": np.array([labels] * 3)}
    losses = None
    if level is not None:
        losses = np.random.default_rng(seed).gamma(2.0, level / 2, (3, EXAMPLES)) + np.array([[0], [0.1], [0.3]])
        arrays["losses"] = losses.astype(np.float32)
    write_run(
        folder / "exp", criterion, seed, ratios=RATIOS, quality=(100.0, 100.0, 100.0), stability=(100.0, 100.0, 100.0),
        losses=None if losses is None else tuple(losses.mean(axis=1).tolist()), arrays=arrays, task=task, metric=metric,
        name=f"{task}-{criterion}-{seed}-{'-'.join(map(str, keys.values()))}", **keys,
    )  # fmt: skip
    return losses


def pair(folder: Path, his: float | None, hies: float | None, **keys: Any) -> list[tuple[Any, Any]]:
    """Five seeds of HIS and HIES at these levels of loss: their losses by seed."""
    return [
        (write(folder, "his", seed, his, **keys), write(folder, "hies", seed, hies, alpha="per_ratio", **keys))
        for seed in range(5)
    ]


@pytest.mark.parametrize(("his", "hies", "verdict"), [(1.0, 0.5, "ahead"), (0.5, 1.0, "behind")])
def test_the_curve_of_less_loss_is_ahead_in_every_table(tmp_path: Path, his: float, hies: float, verdict: str) -> None:
    written = pair(tmp_path, his, hies)
    rows = load(tmp_path)
    gain = np.mean([two[1].mean() - one[1].mean() for one, two in written])
    assert (gain < 0) == (verdict == "ahead")
    summary = summary_table(rows, measures=LOSS)
    at = summary.data[summary.data["ratio"] == 0.3].iloc[0]
    assert at["loss_mean"] == pytest.approx(gain) and at["loss_verdict"] == verdict and at["loss_low"] <= gain
    assert "in nats, paired by seed" in summary.caption and "Lower is better, so ahead is lower." in summary.caption
    assert not [column for column in summary.shown if "quality" in column]
    table = significance_table(rows, draws=200, measures=LOSS)
    at = table.data[table.data["ratio"] == 0.3].iloc[0]
    assert at["mean"] == pytest.approx(gain, abs=1e-6) and at["verdict"] == verdict
    assert at["hies"] - at["his"] == pytest.approx(gain, abs=1e-6)
    assert "HIES minus HIS in nats" in table.caption and f"{gain:+.3f} [" in table.shown["loss: difference"].iloc[0]
    other = {"ahead": "behind", "behind": "ahead"}[verdict]  # HIS minus HIES
    against = against_table(rows, draws=200, measures=LOSS).data
    assert against[against["criterion"] == "HIS"]["verdict"].tolist() == [other, other]


def test_the_interval_is_that_of_the_losses_of_the_drawn_seeds_and_examples(tmp_path: Path) -> None:
    written = pair(tmp_path, 1.0, 0.9)
    table = significance_table(load(tmp_path), draws=37, measures=LOSS).data
    counts = np.concatenate(list(example_counts("toy", EXAMPLES, 37)))
    gained = np.array([two[2] - one[2] for one, two in written])  # [seeds, examples]
    of_seeds = gained.mean(axis=1).var(ddof=1) / 5
    variance = of_seeds + (counts @ gained.mean(axis=0) / EXAMPLES).var()
    half = t.ppf(0.975, 4 * (variance / of_seeds) ** 2) * variance**0.5
    found = table[table["ratio"] == 0.5].iloc[0]
    np.testing.assert_allclose([found["low"], found["high"]], gained.mean() + half * np.array([-1, 1]), rtol=1e-4)


def test_forms_are_compared_by_loss_and_the_better_side_is_named(tmp_path: Path) -> None:
    for seed in range(5):
        write(tmp_path, "his", seed, 0.5)
        write(tmp_path, "his", seed, 1.0, reduction="batch", reduction_batch=32)
    rows = load(tmp_path)
    write(tmp_path, "his", 0, None, task="rte")  # of before losses, and with its reference
    write(tmp_path, "his", 0, None, task="rte", reduction="batch", reduction_batch=32)
    assert set(compare(load(tmp_path), 10, LOSS)["task"]) == {"toy"}
    data = compare(rows, 100, LOSS)
    assert set(data["measure"]) == {"loss"} and set(data["verdict"]) == {"behind"} and (data["mean"] > 0).all()
    table = variants_table(rows, draws=100, measures=LOSS)
    assert "loss, 30 and 50 %" in table.shown and "in nats, mean over the ratios" in table.caption
    text = caption_of(draw_forest(rows, draws=100, measures=LOSS)[0])
    assert "Left of the line: better than the reference" in text
    both = caption_of(draw_forest(rows, draws=100, measures=("quality", "loss"))[0])
    assert "Right, of losses left, of the line: better" in both
    assert "Right of the line: better" in caption_of(draw_forest(rows, draws=100)[0])


@pytest.mark.parametrize(("his", "hies", "verdict"), [(1.0, 0.5, "holds"), (0.5, 1.0, "does not hold")])
def test_the_claim_of_quality_by_loss_puts_the_difference_below_0(
    tmp_path: Path, his: float, hies: float, verdict: str
) -> None:
    written = pair(tmp_path, his, hies)
    table = claims_table(load(tmp_path), draws=100, measures=LOSS)
    gain = np.mean([two[1:].mean() - one[1:].mean() for one, two in written])
    name = "1 by loss: lower at 30 % and more"
    assert table.shown[name].tolist()[0].startswith(f"{verdict}: {gain:+.3f} [")
    assert [*table.shown][2:] == [CLAIMS[3].words, name, "3 by loss: HIS lower up to 10 %"]
    assert "Claims 3 by loss put it above 0, claims 4 and 1 by loss below" in table.caption
    assert "percentage points and of losses in nats" in table.caption


def test_squared_errors_are_no_part_of_means_over_tasks(tmp_path: Path) -> None:
    for seed in range(3):
        for task, level, metric in (("sst2", 1.0, "accuracy"), ("rte", 0.6, "accuracy"), ("stsb", 9.0, "pearson")):
            write(tmp_path, "his", seed, level, task=task, metric=metric)
            write(tmp_path, "hies", seed, level / 2, task=task, metric=metric, alpha="per_ratio")
    rows = load(tmp_path)
    mean = mean_of_tasks(rows, "loss").set_index(["curve", "seed", "ratio"])["loss"]
    two = rows[rows["task"] != "stsb"].groupby(["curve", "seed", "ratio"])["loss"].mean()
    np.testing.assert_allclose(mean, two)
    table = against_table(rows, draws=20, measures=LOSS)
    gains = [gain for gain in gains_over_his(rows, 20) if gain.measure == "loss"]
    units = {gain.task: gain.unit for gain in gains}
    assert units == {"sst2": "nats", "rte": "nats", "stsb": "squared error"}
    expected = -np.mean([gain.gains[:, 0].mean() for gain in gains if gain.task != "stsb"])
    assert table.data["mean"].iloc[0] == pytest.approx(expected) and table.data["tasks"].unique().tolist() == [2]
    text = "of STS-B the mean squared error, and no part of means over tasks. Lower is better."
    assert text in table.caption and "in nats; of STS-B squared error" in table.caption
    panels = draw_all_tasks(rows, measures=LOSS)
    assert text in caption_of(panels[0]) and panels[0].get_ylabel() == "loss (nats; of STS-B squared error)"
    np.testing.assert_allclose(lines(panels[-1])["HIS"][0, 1], two.xs(("HIS", 0.0), level=("curve", "ratio")).mean())
    only = rows[rows["task"] == "stsb"]
    assert draw_curves(only, measures=LOSS)[0].get_ylabel() == "loss (squared error)"
    samples = samples_at(gains, lambda ratios: ratios == 0.3)
    assert samples[MEAN].mean == pytest.approx(-expected) and (samples[MEAN].tasks, samples[MEAN].better) == (2, -1)


def test_figures_show_the_loss_with_its_unit(tmp_path: Path) -> None:
    written = pair(tmp_path, 1.0, 0.5)
    rows = load(tmp_path)
    (panel,) = draw_curves(rows, measures=LOSS)
    assert (panel.get_ylabel(), panel.get_title(loc="left")) == ("loss (nats)", "Loss: lower is better")
    assert "option or, of a text, next token over the examples, in nats" in caption_of(panel)
    np.testing.assert_allclose(lines(panel)["HIS"][:, 1], np.mean([one.mean(axis=1) for one, _ in written], axis=0))
    upper, lower = draw_curves(rows, measures=("stability", "loss"))
    assert (upper.get_ylabel(), lower.get_ylabel()) == ("stability (%)", "loss (nats)")
    assert draw_methods(rows, measures=LOSS)[0].get_ylabel() == "loss (nats)"


def test_what_was_not_measured_is_missing_and_no_zero(tmp_path: Path) -> None:
    pair(tmp_path / "none", None, None)
    rows = load(tmp_path / "none")
    assert rows["loss"].isna().all()
    for make in (draw_curves, summary_table, significance_table, against_table):
        with pytest.raises(Unavailable, match="no row of a pruned ratio has a loss"):
            make(rows, measures=LOSS)
    pair(tmp_path / "half", 1.0, None)
    table = significance_table(load(tmp_path / "half"), draws=20, measures=LOSS)
    assert table.data["mean"].isna().all() and set(table.data["verdict"]) == {""}
    assert "because runs have no finite loss: toy up to 20." in table.caption and "constant" not in table.caption
    assert set(summary_table(load(tmp_path / "half"), measures=LOSS).shown["loss"]) == {"undefined"}


def test_other_shapes_of_losses_are_refused(tmp_path: Path) -> None:
    pair(tmp_path, 1.0, 0.5)
    file = next((tmp_path / "exp").glob("*his*.npz"))
    with np.load(file) as arrays:
        changed = {**arrays, "losses": arrays["losses"][:, :5]}
    np.savez(file, **changed)
    with pytest.raises(Unavailable, match="one loss for each ratio and example"):
        gains_over_his(load(tmp_path), 10)


def test_losses_change_nothing_that_shows_quality_and_stability(tmp_path: Path) -> None:
    pair(tmp_path / "with", 1.0, 0.5)
    pair(tmp_path / "without", None, None)
    for make in (significance_table, against_table, summary_table):
        one, two = (make(load(tmp_path / name)) for name in ("with", "without"))
        assert one.caption == two.caption and one.shown.equals(two.shown) and one.data.equals(two.data)


def test_the_measure_is_an_option_and_part_of_the_names_of_files(tmp_path: Path, capsys) -> None:
    pair(tmp_path / "results", 1.0, 0.5)
    where = ["--results", str(tmp_path / "results"), "--out", str(tmp_path)]
    assert main(["summary", "curves", "loss", *where]) == 0
    assert main(["summary", "--measure", "loss", *where]) == 0
    names = {path.name for path in (tmp_path / "tables").glob("*.md")}
    assert names == {"summary__exp.md", "summary_loss__exp.md", "loss__exp__tiny__toy.md"}
    text = (tmp_path / "tables" / "loss__exp__tiny__toy.md").read_text()
    assert "Loss (nats); lower is better: " in text and text.count("[") > 4
    capsys.readouterr()
    assert main(["summary", "--measure", "los", *where]) == 2
    assert "--measure=los names 'los', which is no measure; did you mean loss?" in capsys.readouterr().err
    assert main(["heatmaps", "--measure", "loss", *where]) == 2
    assert "--measure cannot be chosen for NAME=heatmaps" in capsys.readouterr().err
    assert line(summary_table(load(tmp_path / "results"), measures=LOSS).shown, removed="30 %")


def test_normalized_quality_is_shown_where_a_task_has_it(tmp_path: Path) -> None:
    for criterion, normalized in (("his", 61.0), ("hies", 72.0)):
        for seed in range(2):
            folder, options = tmp_path / "exp", {"alpha": "auto"} if criterion == "hies" else {}
            write_run(folder, criterion, seed, (90.0, 80.0), task="hellaswag", quality_norm=normalized, **options)
            write_run(folder, criterion, seed, (80.0, 40.0), task="winogrande", **options)
    measures = ("quality_norm", "stability")
    rows = load(tmp_path)
    summary = summary_table(rows, measures=measures)
    gains = summary.data.groupby("task")["quality_norm_mean"].first().to_dict()
    assert gains == {"hellaswag": 11.0, "winogrande": 0.0} and "(acc_norm)" in summary.caption
    titles = [axes.get_title(loc="right") for axes in draw_all_tasks(rows, measures=measures)]
    assert titles[:2] == ["acc_norm, n = 50", "accuracy, n = 50"]
    points = mean_of_tasks(rows, "quality_norm")
    assert set(points[points["ratio"] > 0]["quality_norm"]) == {(61 + 40) / 2, (72 + 40) / 2}
    assert any(axes.get_ylabel() == "normalized quality (%)" for axes in draw_all_tasks(rows, measures=measures))


def two_classes(scale: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Labels, answers and losses of a line of scores of two classes, and the margins of the right one."""
    labels, draw = np.arange(EXAMPLES) % 2, np.random.default_rng(seed)
    margins = scale * draw.normal(0.7, 1.0, EXAMPLES)
    answers = np.where(margins > 0, labels, 1 - labels)
    return labels, answers[None], np.logaddexp(0, -margins)[None], margins


def test_after_a_temperature_only_how_well_classes_are_told_apart_counts() -> None:
    labels, answers, losses, margins = two_classes(1.0)
    least = minimize_scalar(lambda b: np.logaddexp(0, -b * margins).mean(), bounds=(0, 50), method="bounded")
    found = tempered_losses(labels, answers, losses)
    assert found.shape == (1, EXAMPLES) and found.mean() == pytest.approx(least.fun, rel=1e-6)
    assert found.mean() < losses.mean()
    sure = two_classes(4.0)  # the same scores, four times as far apart
    assert sure[2].mean() != pytest.approx(losses.mean(), rel=0.02) and tempered_losses(*sure[:3]) == pytest.approx(
        found, rel=1e-4, abs=1e-6
    )
    wrong = tempered_losses(labels, 1 - answers, np.logaddexp(0, margins)[None])
    assert wrong.mean() == pytest.approx(np.log(2), abs=1e-3)  # none is better than no answer at all
    right = tempered_losses(labels, labels[None], np.full((1, EXAMPLES), 0.3))
    assert right.mean() == pytest.approx(0, abs=1e-6)


def test_losses_that_single_precision_rounds_to_0_have_no_temperature() -> None:
    labels, answers, losses, margins = two_classes(60.0)
    both = np.concatenate([losses, np.logaddexp(0, -margins / 60)[None]]).astype(np.float32)
    found = tempered_losses(labels, np.repeat(answers, 2, axis=0), both)
    assert np.isnan(found[0]).all() and not np.isnan(found[1]).any()


@pytest.mark.parametrize("kind", ["three classes", "scores", "an answer that its loss contradicts"])
def test_without_two_classes_there_is_no_loss_after_a_temperature(kind: str) -> None:
    labels, answers, losses, _ = two_classes(1.0)
    if kind == "three classes":
        labels = np.where(np.arange(EXAMPLES) == 5, 2, labels)
    elif kind == "scores":
        labels = labels.astype(np.float32)
    else:  # of three classes, of which these examples have two
        losses = np.where(np.arange(EXAMPLES) == np.argmin(losses[0]), 0.8, losses)
    assert np.isnan(tempered_losses(labels, answers, losses)).all()


def test_the_loss_after_a_temperature_is_a_measure_of_every_table(tmp_path: Path) -> None:
    for seed in range(5):
        for criterion, scale in (("his", 1.0), ("hies", 4.0)):
            labels, answers, losses, _ = two_classes(scale, seed)
            arrays = {"labels": labels, "predictions": np.repeat(answers, 3, 0), "losses": np.repeat(losses, 3, 0)}
            write_run(tmp_path / "exp", criterion, seed, (80,) * 3, ratios=RATIOS, arrays=arrays,
                      **({"alpha": "auto"} if criterion == "hies" else {}))  # fmt: skip
    rows = load(tmp_path)
    rows = rows.assign(loss=1.0)  # what a row says of it has no part in this
    gains = [gain for gain in gains_over_his(rows, 20) if gain.measure in ("loss", "tempered")]
    found = {gain.measure: gain.gains.mean() for gain in gains}
    assert found["loss"] > 0.1 and found["tempered"] == pytest.approx(0, abs=1e-4)
    filled = with_measure(rows, "tempered")
    by_criterion = filled.groupby("criterion")["tempered"].mean()
    assert by_criterion["his"] == pytest.approx(by_criterion["hies"], abs=1e-4) and by_criterion["his"] < np.log(2)


def test_a_measure_that_no_row_has_is_left_out_with_a_word_where_others_are_there(tmp_path: Path, capsys) -> None:
    for seed in range(5):
        write(tmp_path, "his", seed, 0.5)
        write(tmp_path, "hies", seed, 0.4, alpha="auto")
    where = ["--results", str(tmp_path), "--out", str(tmp_path / "out")]
    assert main(["significance", "--measure", "quality,token_loss", *where]) == 0
    assert "loss a token is left out: no row of a pruned ratio has a loss a token" in capsys.readouterr().err
    assert main(["significance", "--measure", "token_loss", *where]) != 0
