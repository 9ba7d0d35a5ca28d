import json
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import matplotlib as mpl
import pandas as pd
import pytest
from analysis_runs import command_of, run_name, write_grid, write_run
from matplotlib.figure import Figure

from analysis import registry
from analysis.cli import main
from analysis.data.rows import load
from analysis.text.captions import absent_tasks

STEMS = {
    "figures": ["agreement__exp__tiny__toy", "curves__exp__tiny__toy", "heatmaps__exp__tiny__toy"],
    "tables": ["quality__exp__tiny__toy", "stability__exp__tiny__toy", "summary__exp"],
}


@pytest.fixture
def results(tmp_path: Path) -> Path:
    exp = tmp_path / "results" / "exp"
    for seed in (0, 1):
        write_run(exp, "his", seed, ratios=(0.0, 0.3))
        write_run(exp, "hies", seed, ratios=(0.0, 0.3), quality=(90, 85 + seed), alpha=0.5)
    write_run(exp, "ae", 0, ratios=(0.0, 0.3))
    return tmp_path / "results"


def test_everything_is_written_and_a_second_run_gives_the_same_bytes(
    results: Path, tmp_path: Path, capsys, monkeypatch
) -> None:
    contents, save = [], Figure.savefig

    def save_some(figure: Figure, path: Path, **options) -> None:
        """Saves one PDF with the fonts that readers get, and of the others none in the second run."""
        curves = path.name.startswith("curves")
        if path.suffix == ".png" or curves or not contents:
            with mpl.rc_context({"pdf.fonttype": 42 if curves else 3}):
                save(figure, path, **options)

    monkeypatch.setattr(Figure, "savefig", save_some)
    for out in (tmp_path / "one", tmp_path / "two"):
        assert main(["--results", str(results), "--out", str(out)]) == 0
        contents.append({str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*.*")})
    assert contents[1].items() <= contents[0].items()
    assert {Path(name).suffix for name in {*contents[0]} - {*contents[1]}} == {".pdf"}
    endings = {"figures": ("png", "pdf"), "tables": ("md", "csv")}
    names = {f"{kind}/{stem}.{end}" for kind, stems in STEMS.items() for stem in stems for end in endings[kind]}
    assert names <= set(contents[0])
    assert b"CreationDate" not in contents[0]["figures/curves__exp__tiny__toy.pdf"]
    printed = capsys.readouterr().out
    assert all(str(tmp_path / "one" / name) in printed for name in names)
    numbers = pd.read_csv(tmp_path / "one" / "tables" / "quality__exp__tiny__toy.csv")
    assert numbers.query("ratio == 0.3")["mean"].tolist() == [85.5, 80, 80]


def test_names_choose_and_experiments_do_not_overwrite_each_other(results: Path, tmp_path: Path) -> None:
    write_run(results / "other", "his", model="org/big")
    assert main(["quality", "--results", str(results), "--out", str(tmp_path / "out")]) == 0
    files = sorted(path.name for path in (tmp_path / "out").rglob("*.md"))
    assert files == ["quality__exp__tiny__toy.md", "quality__other__org%2Fbig__toy.md"]
    assert not (tmp_path / "out" / "figures").exists()


def test_two_underscores_in_a_name_are_not_those_between_the_parts_of_a_files_name(tmp_path: Path) -> None:
    for model, task in (("m__a", "b"), ("m", "a__b"), ("m_", "_b")):
        write_run(tmp_path / "exp", "his", model=model, task=task, name=f"{model}-{task}")
    assert main(["quality", "--results", str(tmp_path), "--out", str(tmp_path / "out")]) == 0
    stems = [path.stem.split("__") for path in (tmp_path / "out").rglob("*.md")]
    parts = {tuple(map(unquote, stem[2:])) for stem in stems}
    assert parts == {("m__a", "b"), ("m", "a__b"), ("m_", "_b")}


def test_missing_cells_are_named_with_their_commands(results: Path, tmp_path: Path, capsys) -> None:
    write_grid(results / "exp", ("his", 0), ("ae", 0), ("ae", 1), ("l2", 0))
    (results / "exp" / f"{run_name('l2', 0)}.failed.json").write_text("{}")
    assert main(["quality", "--results", str(results), "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[-3:] == [
        "exp: 2 of 4 jobs finished, 1 failed.",
        f"  missing: tiny, toy, ae, seed 1: {command_of('ae', 1)}",
        f"  missing (failed): tiny, toy, l2, seed 0: {command_of('l2', 0)}",
    ]
    assert "incomplete: 2 of 4 jobs" in (tmp_path / "tables" / "quality__exp__tiny__toy.md").read_text()


def test_a_task_without_rows_is_named_with_one_command(results: Path, tmp_path: Path, capsys) -> None:
    jobs = [
        {"run_id": f"{task}-{seed}", "model": "tiny", "task": task, "criterion": "his", "parameters": {}, "seed": seed,
         "command": f"python -m experiments.run task={task} criterion=his seed={seed}{word}"}
        for task, word in (("other", " experiment=exp"), ("own", ""))
        for seed in (0, 1)
    ]  # fmt: skip
    (results / "exp" / "grid.json").write_text(json.dumps({"jobs": jobs}), encoding="utf-8")
    assert main(["quality", "--results", str(results), "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines()[-3:] == [
        "  no rows of tiny on other: python -m experiments.run task=other criterion=his experiment=exp",
        "  missing: tiny, own, his, seed 0: python -m experiments.run task=own criterion=his seed=0",
        "  missing: tiny, own, his, seed 1: python -m experiments.run task=own criterion=his seed=1",
    ]
    rows = load(results)
    assert set(rows["tasks_without_rows"]) == {"other,own"}
    assert absent_tasks(rows, ["other", "toy"]) == " No rows yet: other."


def test_what_the_rows_do_not_allow_is_named_and_does_not_stop_the_rest(tmp_path: Path, capsys) -> None:
    write_run(tmp_path / "exp", "random")
    assert main(["heatmaps", "quality", "--results", str(tmp_path), "--out", str(tmp_path)]) == 0
    assert "not built: heatmaps for exp, tiny, toy: " in capsys.readouterr().out
    assert main(["heatmaps", "--results", str(tmp_path), "--out", str(tmp_path)]) == 1


def test_settings_that_lack_the_same_are_named_in_one_line(tmp_path: Path, capsys) -> None:
    for task in ("toy", "other"):
        write_run(tmp_path / "exp", "random", task=task)
    assert main(["heatmaps", "--results", str(tmp_path), "--out", str(tmp_path)]) == 1
    assert "not built: heatmaps for exp, tiny, other; exp, tiny, toy: no rows of" in capsys.readouterr().out


def test_list_names_all(capsys) -> None:
    assert main(["--list"]) == 0
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    known = "curves heatmaps agreement quality stability claims significance figure4 figure10 figure11 figure13"
    assert set(names) >= {*known.split(), *(f"table{number}" for number in (1, 2, 3, 7, 8, 9, 10, 11, 12))}
    assert len(names) == len(set(names)) == len(registry.entries())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["curvs"], ["NAME=curvs", "did you mean curves", "heatmaps"]),
        (["--experiment", "exq"], ["--experiment=exq", "did you mean exp"]),
        (["--results", "nowhere"], ["--results=nowhere", "make run", "-m experiment=quickstart"]),
        (["--reslts", "x"], ["--reslts", "--help"]),
    ],
)
def test_errors_are_one_sentence(results: Path, arguments: list[str], words: list[str], capsys) -> None:
    assert main(["--results", str(results), *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1 and captured.out == ""
    assert [word for word in words if word not in captured.err] == []


def test_a_grid_without_rows_says_which_command_makes_them(tmp_path: Path, capsys) -> None:
    write_grid(tmp_path / "exp", ("his", 0))
    assert main(["--results", str(tmp_path), "--experiment", "exp"]) == 2
    assert "`python -m experiments.run -m experiment=exp` makes them" in capsys.readouterr().err


def test_an_output_that_cannot_be_written_is_told(results: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "file").write_text("")
    assert main(["quality", "--results", str(results), "--out", str(tmp_path / "file")]) == 2
    assert capsys.readouterr().err.startswith(f"error: --out={tmp_path / 'file'} cannot be written to")


def test_analysis_needs_neither_torch_nor_the_library() -> None:
    script = (
        "import sys; from analysis import cli, registry; registry.entries(); "
        "heavy = {'torch', 'transformers', 'hydra', 'hies.heads', 'experiments'} & set(sys.modules); "
        "sys.exit(f'imported: {heavy}' if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(__file__).parents[2])


def test_two_entries_of_one_name_are_refused() -> None:
    registry.entries()
    with pytest.raises(ValueError, match="two figures or tables are named quality"):
        registry.table("quality", about="", needs="")(lambda rows: None)
