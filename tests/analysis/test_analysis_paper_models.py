"""The paper's tables of other models than BERT: 3, 8, 10 and 12."""

from pathlib import Path

import numpy as np
import pytest
from analysis_runs import write_run
from shown import line

from analysis import load, paper
from analysis.errors import Unavailable
from analysis.tables.paper import table8
from analysis.tables.spread import table3, table9, table10, table12
from analysis.text.labels import TASK_NAMES

ALPHA = "\N{GREEK SMALL LETTER ALPHA}"
PER_RATIO = f"HIES ({ALPHA} per ratio)"
RATIOS = (0.0, 0.1, 0.3)
THREE = ("hellaswag", "winogrande", "arc_challenge")


def write(folder: Path, criterion: str, task: str, quality: tuple[float | None, ...], seed: int = 0, **keys) -> None:
    name = "-".join(map(str, (task, criterion, seed, *keys.values()))).replace("/", "")[:120]
    options = {"ratios": RATIOS, "model": "big", "name": name, **keys}
    write_run(folder / "language_models", criterion, seed, quality, task=task, **options)


def both(folder: Path, task: str, his: float | None, hies: float | None, seed: int = 0, **keys) -> None:
    write(folder, "his", task, (90, his, 50), seed, **keys)
    write(folder, "hies", task, (90, hies, 55), seed, alpha="per_ratio", **keys)


def test_the_papers_names_of_tasks_are_ours() -> None:
    named = {
        task
        for name in paper.paper_tables()
        if "task" in paper.read_paper(name)
        for task in paper.read_paper(name)["task"]
    }
    assert named - {"average"} <= set(TASK_NAMES)
    assert {"vizwiz", "mmvet"} <= named


def test_the_printed_averages_of_tables_10_and_12_are_those_of_the_printed_numbers() -> None:
    for name in ("table10_llama_seeds", "table12_llama_calibration"):
        for column in ("HIS_percent", "HIES_percent"):
            wide = paper.read_paper(name).pivot(index="ratio", columns="task", values=column)
            np.testing.assert_allclose(wide[list(THREE)].mean(axis=1), wide["average"], atol=0.007)


def test_what_table_10_prints_as_a_deviation_on_two_tasks_is_the_mean_again() -> None:
    printed = paper.read_paper("table10_llama_seeds")
    for criterion in ("HIS", "HIES"):
        mean, deviation = printed[f"{criterion}_percent"] / 100, printed[f"{criterion}_std_as_printed"]
        same = np.isclose(mean, deviation, atol=0.00051)
        assert same.tolist() == printed["task"].isin(["hellaswag", "winogrande"]).tolist()


def test_table10_by_hand(tmp_path: Path) -> None:
    for seed, (his, hies) in enumerate([(60, 80), (63, 84), (66, 82)]):
        for task in THREE:
            both(tmp_path, task, his, hies, seed)
            write(tmp_path, "hies", task, (90, 1, 1), seed, alpha="per_ratio", importance="output_norm")
        both(tmp_path, "piqa", 1, 2, seed)  # has no place in it
    table = table10(load(tmp_path))
    shown = table.shown
    assert line(shown, task="ARC-c", removed="10 %") == [
        "33.15 ± 0.37", "63.00 ± 3.00", "35.05 ± 0.70", "82.00 ± 2.00",
    ]  # fmt: skip
    assert line(shown, task="HellaSwag", removed="10 %")[::2] == ["53.63", "53.98"]
    assert line(shown, task="average", removed="10 %") == [
        "51.05 ± 0.57", "63.00 ± 3.00", "52.01 ± 0.51", "82.00 ± 2.00",
    ]  # fmt: skip
    assert line(shown, task="WinoGrande", removed="50 %")[1::2] == ["", ""]
    assert shown["task"].drop_duplicates().tolist() == ["HellaSwag", "WinoGrande", "ARC-c", "average"]
    assert list(table.data.columns) == [
        "task", "ratio", "criterion", "paper_mean", "paper_std", "ours_mean", "ours_std", "n",
    ]  # fmt: skip
    for words in ("table 10 (LLaMA-2-7B)", f"Ours: {PER_RATIO}.", "all three tasks", "prints the mean over again"):
        assert words in table.caption
    assert "PIQA" not in table.caption


def test_hies_of_the_output_norm_stands_in_where_there_is_no_other(tmp_path: Path) -> None:
    write(tmp_path, "his", "winogrande", (90, 60, 50))
    write(tmp_path, "hies", "winogrande", (90, 70, 50), alpha=0.9, importance="output_norm")
    assert line(table10(load(tmp_path)).shown, task="WinoGrande", removed="10 %")[-1] == "70.00"
    write(tmp_path, "hies", "winogrande", (90, 71, 50), alpha=0.5)  # though its alpha is farther from a chosen one
    write(tmp_path, "hies", "winogrande", (90, 72, 50), alpha="per_ratio", importance="output_norm")
    assert line(table10(load(tmp_path)).shown, task="WinoGrande", removed="10 %")[-1] == "71.00"


def test_table12_is_the_spread_over_sizes_of_the_means_over_seeds(tmp_path: Path) -> None:
    for size, values in {1: (50, 60), 32: (70, 72), 1024: (80, None)}.items():
        for seed, quality in enumerate(values):
            both(tmp_path, "hellaswag", quality, 40, seed, calibration_size=size)
    table = table12(load(tmp_path))
    means = [55, 71, 80]
    assert line(table.shown, task="HellaSwag", removed="10 %") == [
        "53.54 ± 0.16", f"{np.mean(means):.2f} ± {np.std(means, ddof=1):.2f}", "54.09 ± 0.20", "40.00 ± 0.00",
    ]  # fmt: skip
    assert line(table.shown, task="average", removed="60 %")[0] == "33.95 ± 1.23"
    assert "sizes 1, 32, 1024" in table.caption and "table 12 (LLaMA-2-7B)" in table.caption
    assert "No rows of ours for WinoGrande, ARC-c." in table.caption


def test_table8_is_the_mean_over_the_seeds_of_his(tmp_path: Path) -> None:
    scores = [np.array([1.0, 2, 3, 4, 6]), np.array([1.0, 1, 5, 2, 1])]
    ae = np.array([0.5, 0.25, 1, 0, 0.125])
    for seed, his in enumerate(scores):
        write(tmp_path, "his", "openbookqa", (90, 80, 60), seed, arrays={"his": his, "ae": ae})
    table = table8(load(tmp_path))
    found = table.data.query("task == 'openbookqa'").set_index("statistic")
    assert found.loc["correlation", "ours"] == pytest.approx(np.mean([np.corrcoef(his, ae)[0, 1] for his in scores]))
    assert found.loc["mean_u_his", "ours"] == pytest.approx(1 / 5)
    assert found["paper"].tolist() == [9.77e-4, 8.01e-1, -1.29e-4, 6.53e-4, -1.61e-1]
    assert table.shown["task"].drop_duplicates().tolist() == ["HellaSwag", "WinoGrande", "ARC-e", "ARC-c", "OBQA"]
    assert "table 8 (LLaMA-2-7B, 1,024 heads)" in table.caption


def test_table8_does_not_mix_curves_and_says_which_file_lacks_scores(tmp_path: Path) -> None:
    write(tmp_path, "his", "arc_easy", (90, 80, 60), name="plain")
    with np.load(tmp_path / "language_models" / "plain.npz") as arrays:
        kept = {name: arrays[name] for name in ("sites", "heads", "ratios")}
    np.savez(tmp_path / "language_models" / "plain.npz", **kept)
    with pytest.raises(Unavailable, match="score file of plain has no his or no ae"):
        table8(load(tmp_path))
    write(tmp_path, "his", "arc_easy", (90, 80, 60), sites="decoder")
    with pytest.raises(Unavailable, match=r"several curves: HIS, HIS \(sites = decoder\)"):
        table8(load(tmp_path))


def test_table3_of_images_leaves_questions_out(tmp_path: Path) -> None:
    for seed, his in enumerate((70, 74)):
        both(tmp_path, "cifar100", his, 85, seed)
    table = table3(load(tmp_path))
    assert table.shown["task"].drop_duplicates().tolist() == ["CIFAR-100", "ImageNet-1k"]
    assert line(table.shown, task="CIFAR-100", removed="10 %") == [
        "91.40", f"72.00 ± {np.std([70, 74], ddof=1):.2f}", "92.40", "85.00 ± 0.00",
    ]  # fmt: skip
    assert line(table.shown, task="ImageNet-1k", removed="30 %") == ["6.20", "", "55.40", ""]
    assert "table 3 (ViT-Large)" in table.caption and "No rows of ours for ImageNet-1k." in table.caption
    assert "Undefined" not in table.caption and PER_RATIO in table.caption


def test_table3_says_undefined_where_no_answer_was_judged(tmp_path: Path) -> None:
    for seed in (0, 1):
        both(tmp_path, "vizwiz", 40, 45, seed)
        options = {"ratios": RATIOS, "model": "big", "task": "mmvet"}
        for criterion, knobs in (("his", {}), ("hies", {"alpha": "per_ratio"})):
            write_run(tmp_path / "language_models", criterion, seed, (None, None, None), **options, **knobs)
    table = table3(load(tmp_path))
    assert line(table.shown, task="MM-Vet", removed="30 %") == ["29.80", "undefined", "34.00", "undefined"]
    assert line(table.shown, task="MM-Vet", removed="50 %") == ["24.60", "", "25.20", ""]  # no rows at all
    assert line(table.shown, task="VizWiz", removed="10 %")[1] == "40.00 ± 0.00"
    assert "Undefined: no run has a quality" in table.caption and "table 3 (LLaVA-1.5-7B)" in table.caption
    assert table.data.query("task == 'mmvet'")["ours_mean"].isna().all()


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (table3, "no rows on CIFAR-100, ImageNet-1k, VizWiz or MM-Vet"),
        (table8, "no rows of his on HellaSwag, WinoGrande, ARC-e, ARC-c or OBQA"),
        (table10, "on HellaSwag, WinoGrande or ARC-c, at the paper's ratios"),
        (table12, "on HellaSwag, WinoGrande or ARC-c, at the paper's ratios"),
    ],
)
def test_glue_has_no_place_in_them(tmp_path: Path, make, reason: str) -> None:
    both(tmp_path, "sst2", 80, 80)
    with pytest.raises(Unavailable, match=reason):
        make(load(tmp_path))


def test_language_has_no_place_in_the_tables_of_glue(tmp_path: Path) -> None:
    both(tmp_path, "winogrande", 80, 80)
    with pytest.raises(Unavailable, match="GLUE"):
        table9(load(tmp_path))


@pytest.mark.parametrize(
    ("make", "task"), [(table3, "cifar100"), (table8, "winogrande"), (table10, "winogrande"), (table12, "winogrande")]
)
def test_calibration_sizes(tmp_path: Path, make, task: str) -> None:
    both(tmp_path, task, 80, 80)
    if make is table12:
        with pytest.raises(Unavailable, match="at least two calibration sizes, and there is only 32"):
            make(load(tmp_path))
        return
    both(tmp_path, task, 80, 80, calibration_size=64)
    with pytest.raises(Unavailable, match="one calibration size, and there are 32, 64"):
        make(load(tmp_path))


def test_without_the_papers_tasks_table12_shows_those_alike(tmp_path: Path) -> None:
    for size, quality in {1: 50, 128: 70}.items():
        both(tmp_path, "arc_easy", quality, 60, calibration_size=size)
    table = table12(load(tmp_path))
    assert line(table.shown, task="ARC-e", removed="10 %") == [
        "",
        f"60.00 ± {np.std([50, 70], ddof=1):.2f}",
        "",
        "60.00 ± 0.00",
    ]
    assert table.shown["task"].unique().tolist() == ["ARC-e"] and "columns are blank" in table.caption
    for size in (1, 128):
        both(tmp_path, "winogrande", 50, 40, calibration_size=size)
    assert "ARC-e" not in set(table12(load(tmp_path)).shown["task"])  # the paper's tasks, where there is one


def test_without_the_papers_tasks_table3_shows_other_pictures(tmp_path: Path) -> None:
    for task in ("cifar10", "digit_questions"):
        both(tmp_path, task, 72, 75)
    table = table3(load(tmp_path))
    assert table.shown["task"].unique().tolist() == ["CIFAR-10", "Digit questions"]
    assert line(table.shown, task="CIFAR-10", removed="30 %") == ["", "50.00", "", "55.00"]
