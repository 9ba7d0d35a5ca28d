"""The paper's figures of other models than BERT: 4, 10, 11 and 13; methods without heads, undefined quality."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from analysis_runs import hies, write_run
from matplotlib.collections import QuadMesh
from shown import caption_of, lines

from analysis import load, paper
from analysis.errors import Unavailable
from analysis.figures import agreement, alphas, curves, heads, tasks
from analysis.tables.measures import quality_table, summary_table
from analysis.text.captions import removed_words, without_heads

ALPHA = "\N{GREEK SMALL LETTER ALPHA}"
RATIOS = (0.0, 0.2, 0.4)
NO_HEADS = ({}, {}, {})


def write(
    folder: Path, criterion: str, task: str, values: tuple[float | None, ...] = (90, 80, 70), **keys: Any
) -> Path:
    """A run whose score file is as a job writes it: a method that removes no heads has no scores."""
    keys = {"ratios": RATIOS, "task": task, **keys}
    path = write_run(folder, criterion, keys.pop("seed", 0), values, **keys)
    if keys.get("masks") == NO_HEADS:
        without_scores(path)
    return path


def without_scores(path: Path, *names: str) -> None:
    """Take these arrays, or all three, out of a score file."""
    with np.load(path.with_suffix(".npz")) as arrays:
        kept = {name: arrays[name] for name in arrays if name not in (names or ("scores", "his", "ae"))}
    np.savez(path.with_suffix(".npz"), **kept)


def titles(panels) -> list[str]:
    return [axes.get_title(loc="left").strip() for axes in panels]


def xlabels(panels) -> set[str]:
    return {axes.get_xlabel().replace("\n", " ") for axes in panels} - {""}


def test_figure4_has_a_column_for_each_language_task_and_their_mean(tmp_path: Path) -> None:
    for seed, shift in ((0, 0), (1, 4)):
        write(tmp_path / "exp", "his", "piqa", (90, 80 + shift, 70), seed=seed)
        write(tmp_path / "exp", "his", "winogrande", (70, 60 + shift, None if seed else 50), seed=seed)
        write(tmp_path / "exp", "his", "mmlu", (10, 10, 10), seed=seed)
        write(tmp_path / "exp", "his", "sst2", (10, 10, 10), seed=seed)
    panels = tasks.draw_figure4(load(tmp_path))
    assert titles(panels) == ["WinoGrande", "PIQA", "Mean over tasks"] * 2  # the paper's order
    winogrande, piqa, mean, *below = panels
    np.testing.assert_allclose(lines(piqa)["HIS"], [[0, 90], [20, 82], [40, 70]])
    np.testing.assert_allclose(lines(mean)["HIS"], [[0, 80], [20, 72], [40, 60]])  # at 40 % seed 0 alone
    np.testing.assert_allclose(lines(below[0])["HIS"][:, 1], [100, 90, 80])
    assert {axes.get_subplotspec().rowspan.start for axes in panels[:3]} == {0}
    places = [axes.get_subplotspec().colspan.start for axes in panels]
    assert places[:3] == places[3:] == [0, 1, 2]  # stability right below quality
    assert xlabels(panels) == {"heads removed (%)"}
    assert winogrande.get_title(loc="right") == "accuracy, n = 50"
    assert "paper" not in caption_of(mean) and "Matthews" not in caption_of(mean)


def test_one_task_has_no_mean(tmp_path: Path) -> None:
    write(tmp_path / "exp", "his", "docs")
    panels = tasks.draw_figure4(load(tmp_path))
    assert titles(panels) == ["Docs", "Docs"] and "mean is over" not in caption_of(panels[0])


def test_figure4_draws_the_papers_methods_and_both_forms_of_slicegpt(tmp_path: Path) -> None:
    for criterion in ("his", "ad", "l2", "random", "ae", "fisher", "output_norm", "llm_pruner_block"):
        write(tmp_path / "exp", criterion, "docs")
    for tune in (True, False):
        write(tmp_path / "exp", "slicegpt", "docs", tune=tune, masks=NO_HEADS)
    hies(tmp_path / "exp", "per_ratio", 0.9, task="docs", ratios=RATIOS, quality=(90, 80, 70))
    panels = tasks.draw_figure4(load(tmp_path))
    names = {"HIS", "AD", "L2", "Random", "AE", "LLM-Pruner (Block)", "SliceGPT (w/ tune)", "SliceGPT (w/o tune)"}
    assert set(lines(panels[0])) == {*names, f"HIES ({ALPHA} per ratio)", "unpruned"}
    assert xlabels(panels) == {"attention weights removed (%)"}


@pytest.mark.parametrize("model", ["llama2_7b", "llama_tiny"])
def test_table_10_stands_in_figure_4_of_llama_2_alone(tmp_path: Path, model: str) -> None:
    for task in ("arc_challenge", "arc_easy"):
        write(tmp_path / "exp", "his", task, model=model)
    panels = tasks.draw_figure4(load(tmp_path))
    assert titles(panels)[:2] == ["ARC-e", "ARC-c"]
    names = {"HIS, paper", "HIES, paper"} if model == "llama2_7b" else set()
    axes, challenge = panels[1], lines(panels[1])
    assert {name for name in challenge if "paper" in name} == names
    assert not [name for other in panels if other is not axes for name in lines(other) if "paper" in name]
    assert ("Hollow: the paper's table 10" in caption_of(axes)) == bool(names)
    if names:
        np.testing.assert_allclose(challenge["HIS, paper"][:, 0], [10, 20, 30, 40, 50])
        np.testing.assert_allclose(challenge["HIS, paper"][:, 1], [33.15, 33.15, 32.34, 29.69, 25.29])
        np.testing.assert_allclose(challenge["HIES, paper"][0], [10, 35.05])
        marks = [one for one in axes.get_lines() if one.get_label() in names]
        assert {one.get_markerfacecolor() for one in marks} == {"none"}
        assert {one.get_linestyle() for one in marks} == {"None"}
        named = [text.get_text() for text in axes.get_figure(root=True).legends[0].get_texts()]
        assert named == ["HIS", "unpruned", "HIS, paper", "HIES, paper"]


def test_no_other_figure_has_numbers_of_the_paper(tmp_path: Path) -> None:
    for task in ("arc_challenge", "gsm8k", "cifar100"):
        write(tmp_path / "exp", "his", task, model="llama2_7b")
    rows = load(tmp_path)
    for draw in (tasks.draw_figure10, tasks.draw_figure11, tasks.draw_all_tasks):
        panels = draw(rows)
        assert not [name for axes in panels for name in lines(axes) if "paper" in name]
    assert set(tasks.printed_language()["task"]) == set(paper.read_paper("table10_llama_seeds")["task"]) - {"average"}


def test_figures_10_and_11_have_their_tasks_alone(tmp_path: Path) -> None:
    for task in ("mmlu", "gsm8k", "hellaswag", "imagenet1k", "cifar100", "cifar10", "vizwiz", "rte"):
        write(tmp_path / "exp", "his", task)
    rows = load(tmp_path)
    assert titles(tasks.draw_figure10(rows)) == ["GSM8K", "MMLU", "Mean over tasks"] * 2
    assert titles(tasks.draw_figure11(rows)) == ["CIFAR-10", "CIFAR-100", "ImageNet-1k", "Mean over tasks"] * 2


def test_no_task_is_dropped_for_its_names_and_one_without_these_methods_is_named(tmp_path: Path) -> None:
    write(tmp_path / "exp", "his", "mmlu")
    for size in (32, 64):  # the size that most runs of both tasks have is in no name
        write(tmp_path / "exp", "his", "gsm8k", calibration_size=size)
    rows = load(tmp_path)
    panels = tasks.draw_figure10(rows)
    assert titles(panels) == ["GSM8K", "MMLU", "Mean over tasks"] * 2
    assert [set(lines(axes)) - {"unpruned"} for axes in panels[:2]] == [{"HIS"}, {"HIS"}]
    rows.loc[rows["task"] == "gsm8k", "criterion"] = "fisher"
    (above, _) = tasks.draw_figure10(rows)
    assert titles([above]) == ["MMLU"]
    assert "Not drawn, since they have no rows of these methods: GSM8K." in caption_of(above)
    with pytest.raises(Unavailable, match="no rows of the methods"):
        tasks.draw_figure10(rows[rows["criterion"] == "fisher"])


def test_figure13_sets_the_norm_against_norm_and_entropy(tmp_path: Path) -> None:
    write(tmp_path / "exp", "output_norm", "arc_easy", (90, 60, 50))
    write(tmp_path / "exp", "output_norm", "arc_easy", (90, 70, 50), seed=1)
    for alpha, values in (("per_ratio", (90, 85, 80)), ("auto", (90, 1, 1))):
        options = {"ratios": RATIOS, "task": "arc_easy", "importance": "output_norm", "seed": 0}
        hies(tmp_path / "exp", alpha, 0.9, quality=values, stability=(100, 75, 60), **options)
    hies(tmp_path / "exp", "per_ratio", 0.9, task="arc_easy", ratios=RATIOS, quality=(90, 2, 2), calibration_size=32)
    write(tmp_path / "exp", "his", "arc_easy")
    above, below = tasks.draw_figure13(load(tmp_path))
    together = f"HIES ({ALPHA} per ratio, of the output norm)"
    assert set(lines(above)) == {together, "Output norm", "unpruned"}
    np.testing.assert_allclose(lines(above)["Output norm"], [[0, 90], [20, 65], [40, 50]])
    np.testing.assert_allclose(lines(above)[together][:, 1], [90, 85, 80])
    np.testing.assert_allclose(lines(below)[together][:, 1], [100, 75, 60])
    paths = [path for band in above.collections for path in band.get_paths()]
    bands = [{tuple(point) for point in path.vertices} for path in paths]
    assert any({(20.0, 60.0), (20.0, 70.0)} <= band for band in bands)  # of the two seeds of the norm alone
    assert f"With AE: {together}." in caption_of(above)


def test_figure13_needs_both(tmp_path: Path) -> None:
    write(tmp_path / "exp", "output_norm", "arc_easy")
    hies(tmp_path / "exp", 0.9, task="arc_easy", ratios=RATIOS, quality=(90, 2, 2))
    with pytest.raises(Unavailable, match="output_norm, and of hies with importance output_norm"):
        tasks.draw_figure13(load(tmp_path))


@pytest.mark.parametrize(
    ("draw", "reason"),
    [
        (tasks.draw_figure4, "on HellaSwag, .* PIQA or Docs"),
        (tasks.draw_figure10, "on GSM8K or MMLU"),
        (tasks.draw_figure11, "on CIFAR-10,"),
    ],
)
def test_they_say_which_tasks_they_lack(tmp_path: Path, draw, reason: str) -> None:
    write(tmp_path / "exp", "his", "rte")
    write(tmp_path / "exp", "his", "piqa", (90,), ratios=(0.0,))  # the unpruned model alone
    with pytest.raises(Unavailable, match=f"no rows of a pruned ratio {reason}"):
        draw(load(tmp_path))


def test_which_curves_remove_no_heads(tmp_path: Path) -> None:
    write(tmp_path / "exp", "slicegpt", "docs", tune=False, masks=NO_HEADS)
    # A fortieth of five heads is none, so that none removed says nothing.
    write(tmp_path / "few", "his", "docs", ratios=(0.0, 0.025), values=(90, 90), masks=({}, {}))
    # A criterion that finds no head to remove at the first ratio, but one at the next.
    write(tmp_path / "some", "his", "docs", masks=({}, {}, {"first": [0]}))
    rows = load(tmp_path)
    assert without_heads(rows) == ["SliceGPT (w/o tune)"]
    assert without_heads(load(tmp_path, "few")) == without_heads(load(tmp_path, "some")) == []
    assert removed_words(rows) == "attention weights removed (%)"
    assert removed_words(rows[rows["criterion"] == "his"]) == "heads removed (%)"


def test_curves_name_attention_weights_beside_methods_without_heads(tmp_path: Path) -> None:
    write(tmp_path / "exp", "his", "docs")
    write(tmp_path / "exp", "llm_pruner_channel", "docs", masks=NO_HEADS)
    assert xlabels(curves.draw_curves(load(tmp_path))) == {"attention weights removed (%)"}


def test_agreement_leaves_out_what_removes_no_heads(tmp_path: Path) -> None:
    for criterion in ("his", "ae"):
        write(tmp_path / "exp", criterion, "docs", ratios=(0.0, 0.3, 0.5))
    write(tmp_path / "exp", "slicegpt", "docs", tune=True, ratios=(0.0, 0.3, 0.5), masks=NO_HEADS)
    rows = load(tmp_path)
    panels = agreement.draw_agreement(rows)
    assert [text.get_text() for text in panels[0].get_xticklabels()] == ["HIS", "AE"]
    assert "Left out, since they remove no heads: SliceGPT (w/ tune)." in caption_of(panels[0])
    with pytest.raises(Unavailable, match="two criteria that remove heads"):
        agreement.draw_agreement(rows[rows["criterion"] != "ae"])


def test_agreement_of_a_file_without_scores_is_that_of_the_heads(tmp_path: Path) -> None:
    write(tmp_path / "exp", "his", "docs", ratios=(0.0, 0.3, 0.5))
    without_scores(write(tmp_path / "exp", "ae", "docs", ratios=(0.0, 0.3, 0.5)))
    panels = agreement.draw_agreement(load(tmp_path))
    assert [text.get_text() for text in panels[0].texts] == ["1.00"] * 4
    assert [text.get_text() for text in panels[-1].texts] == ["1.00", "n/a", "n/a", "n/a"]


def test_maps_of_heads_do_with_the_arrays_that_are_there(tmp_path: Path) -> None:
    options = {"ratios": (0.0, 0.3, 0.5)}
    without_scores(write(tmp_path / "exp", "his", "docs", **options), "scores")
    second = write(tmp_path / "exp", "hies", "docs", alpha=0.5, **options)
    without_scores(second, "scores")
    rows = load(tmp_path)
    assert titles(heads.draw_heatmaps(rows))[0].startswith("HIS\n")  # HIES would be drawn by its scores
    assert len(heads.draw_heatmaps(rows)) == 3
    mesh = next(one for one in heads.draw_figure3(rows)[0].collections if isinstance(one, QuadMesh))
    np.testing.assert_array_equal(mesh.get_array().reshape(2, 3).filled(-1), [[3, 0, -1], [0, 3, 0]])
    with pytest.raises(Unavailable, match=f"score file of {second.stem} has no scores"):
        heads.draw_figure8(rows)
    without_scores(tmp_path / "exp" / f"{rows.loc[rows['criterion'] == 'his', 'run_id'].iloc[0]}.jsonl")
    with pytest.raises(Unavailable, match="do not hold what it draws"):
        heads.draw_heatmaps(load(tmp_path))


@pytest.mark.parametrize("draw", [heads.draw_heatmaps, heads.draw_figure3, heads.draw_figure8])
def test_maps_of_heads_say_what_methods_without_heads_lack(tmp_path: Path, draw) -> None:
    write(tmp_path / "exp", "slicegpt", "docs", tune=False, masks=NO_HEADS)
    with pytest.raises(Unavailable, match=r"no rows of his|no seed in common"):
        draw(load(tmp_path))


@pytest.fixture
def unjudged(tmp_path: Path) -> pd.DataFrame:
    """MM-Vet without a judge, beside VizWiz."""
    for task, values in (("vizwiz", (50, 40, 30)), ("mmvet", (None, None, None))):
        write(tmp_path / "exp", "his", task, values)
        for alpha in (0.1, 0.5, 0.9):
            write(tmp_path / "exp", "hies", task, values, alpha=alpha)
    return load(tmp_path)


def test_a_task_without_quality_is_undefined_in_figures(unjudged: pd.DataFrame) -> None:
    vizwiz, mmvet, mean, *below = tasks.draw_all_tasks(unjudged)
    for axes in (mmvet, mean):
        assert [text.get_text() for text in axes.texts] == ["undefined"]
        drawn = lines(axes)
        assert "unpruned" not in drawn and all(np.isnan(points[:, 1]).all() for points in drawn.values())
        assert axes.get_xlim() == vizwiz.get_xlim()
    assert not any(axes.texts for axes in (vizwiz, *below))
    left, right = curves.draw_curves(unjudged[unjudged["task"] == "mmvet"])
    assert [text.get_text() for text in left.texts] == ["undefined"] and not right.texts
    (legend,) = left.get_figure(root=True).legends
    assert "unpruned" in [text.get_text() for text in legend.get_texts()]
    for draw in (alphas.draw_alphas, alphas.draw_figure12):
        assert titles(draw(unjudged)) == ["VizWiz"]
        with pytest.raises(Unavailable, match="with a quality"):
            draw(unjudged[unjudged["task"] == "mmvet"])


def test_a_task_without_quality_is_undefined_in_tables(unjudged: pd.DataFrame) -> None:
    mmvet = unjudged[unjudged["task"] == "mmvet"]
    assert quality_table(mmvet).shown.set_index("criterion").loc["HIS"].tolist() == ["undefined"] * 3
    table = summary_table(unjudged)
    shown = table.shown[table.shown["task"] == "MM-Vet"]
    assert set(shown["quality"]) == {"undefined"} and set(shown["quality: HIES is"]) == {""}
    assert set(table.data.loc[table.data["task"] == "mmvet", "quality_verdict"]) == {"undefined"}
    assert set(shown["stability"]) == {"0.00"}


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not there")
@pytest.mark.parametrize(
    ("target", "pairs"),
    [
        ("figure4", [("language_models", "smollm2")]),
        ("figure10", [("language_models", "smollm2")]),
        ("figure13", [("language_models", "smollm2")]),
        ("table8", [("language_models", "smollm2")]),
        ("table10", [("language_models", "smollm2")]),
        ("table12", [("language_calibration", "smollm2")]),
        ("figure11", [("vision", "vit_large")]),
        ("table3", [("vision", "vit_large"), ("vision_language", "llava_1_5_7b")]),
        ("table7", [("glue", "minilm")]),
    ],
)
def test_make_runs_the_papers_experiment_and_draws_from_it(target: str, pairs: list[tuple[str, str]]) -> None:
    root, clean = Path(__file__).parents[2], {"PATH": os.environ["PATH"]}
    command = ["make", "-n", target, "RESULTS=r"]
    printed = subprocess.run(command, cwd=root, env=clean, capture_output=True, text=True, check=True).stdout
    ran = [text.split("-m ")[1].split() for text in printed.splitlines() if "experiments.run" in text]
    assert ran == [
        ["experiments.run", f"model={model}", "results_dir=r", f"experiment={name}"] for name, model in pairs
    ]
    drawn = [text.split("-m ")[1] for text in printed.splitlines() if "-m analysis" in text]
    assert drawn == [f"analysis --results r --out r --experiment {name} {target}" for name, _ in pairs]
