import gc
import gzip
import hashlib
import json
import lzma
import random
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from analysis_runs import run_name, write_grid, write_run

from analysis import load, load_arrays, load_scores, missing_jobs
from analysis.errors import Unavailable
from hies.errors import RowsWarning
from hies.runs import folders as runs_module
from hies.runs.pack import pack

REPORTS = Path(__file__).parents[2] / "reports"


def rows_in(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def write_rows(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def seal(path: Path) -> Path:
    """The rows with their count and a digest of each line, as jobs write them."""
    lines = []
    for row in (rows := rows_in(path)):
        text = json.dumps({**row, "rows": len(rows)})
        lines.append(text[:-1] + f', "digest": "{hashlib.sha256(text.encode()).hexdigest()[:16]}"' + "}\n")
    path.write_text("".join(lines))
    return path


def own_arrays(path: Path, **changes) -> None:
    with np.load(path.with_suffix(".npz")) as file:
        np.savez(path.with_suffix(".npz"), **{**file, **changes})


def edit(old: str, new: str):
    def damage(path: Path) -> None:
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    return damage


def lines(choose):
    def damage(path: Path) -> None:
        path.write_text("".join(choose(path.read_text().splitlines(keepends=True))))

    return damage


def without(key: str):
    return lambda path: write_rows(path, [{k: v for k, v in row.items() if k != key} for row in rows_in(path)])


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (edit('"quality": 80.0', '"quality": 81.0'), r"was changed after it was written \(line 2\)"),
        (edit('"seed": 0', '"seed":  0'), r"was changed after it was written \(line 1\)"),
        (edit('"digest": "', '"digest":"'), r"was changed after it was written \(line 1\)"),
        (lambda path: write_rows(path, [{**row, "more": 1} for row in rows_in(path)]), "was changed after"),
        (without("digest"), "was changed after it was written"),
        (without("rows"), "was changed after it was written"),
        (lines(lambda rows: rows[:2]), "has 2 rows where 3 were written"),
        (lines(lambda rows: [rows[0], rows[1], rows[1]]), "has ratios that do not rise"),
    ],
)
def test_a_sealed_file_that_was_changed_is_left_out(tmp_path: Path, damage, reason: str) -> None:
    path = seal(write_run(tmp_path / "exp", "his", quality=(90, 80.0, 70), ratios=(0, 0.2, 0.4)))
    assert len(load(tmp_path)) == 3
    damage(path)
    with pytest.warns(RowsWarning, match=reason) as caught:
        assert load(tmp_path).empty
    assert len(caught) == 1 and path.name in str(caught[0].message)


def test_a_seal_is_no_knob_and_spares_the_score_file(tmp_path: Path) -> None:
    path = seal(write_run(tmp_path / "exp", "his"))
    path.with_suffix(".npz").write_bytes(b"PK no zip file")
    rows = load(tmp_path)
    assert rows["curve"].tolist() == ["HIS", "HIS"] and not {"rows", "digest"} & set(rows)
    with pytest.raises(Unavailable, match="cannot be read"):
        load_scores(rows.iloc[0])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"ratio": -0.1}, "ratio -0.1, which is not between 0 and 1, in line 2"),
        ({"ratio": 1.5}, "ratio 1.5, which is not between 0 and 1"),
        ({"stability": 100.1}, "stability 100.1, which is not between 0 and 100"),
        ({"quality": -3}, "quality -3, which is not between 0 and 100"),
        ({"quality": float("nan")}, r"garbled line \(2\)"),
        ({"value": float("-inf")}, r"garbled line \(2\)"),
        ({"seed": 0.5}, "wrong type for seed in line 2"),
        ({"seed": True}, "wrong type for seed"),
        ({"examples": "50", "value": []}, "wrong type for examples, value"),
        ({"versions": "2.0"}, "wrong type for versions"),
        ({"heads_removed": 6}, "6 removed heads of 5"),
        ({"mask": [0]}, "wrong type for mask"),
        ({"mask": {"first": ["0"]}}, "a mask that is no list of heads for each site in line 2"),
        ({"mask": {"first": 0}}, "a mask that is no list"),
        ({"mask": {"first": {}}}, "a mask that is no list"),
        ({"mask": {"first": [-1]}}, "a mask that is no list"),
        ({"mask": {"first": [1.0]}}, "a mask that is no list"),
        ({"model": "tiny\x1b[2J"}, "characters that cannot be shown in line 2"),
    ],
)
def test_a_value_that_cannot_be_is_told_in_words(tmp_path: Path, changes: dict, reason: str) -> None:
    path = write_run(tmp_path / "exp", "his")
    first, second = rows_in(path)
    write_rows(path, [first, {**second, **changes}])
    with pytest.warns(RowsWarning, match=reason) as caught:
        assert load(tmp_path).empty
    assert len(caught) == 1 and str(caught[0].message).isprintable()


def test_rounding_does_not_put_a_row_out_of_its_range(tmp_path: Path) -> None:
    write_run(tmp_path / "exp", "his", quality=(100.00000000000001, 0), stability=(100, 0))
    assert len(load(tmp_path)) == 2


@pytest.mark.parametrize("text", [b"[1, 2]\n", b"7\n", b"null\n", b'"row"\n', b"[" * 9999, b"{}\n", b'{"a": 1e999}'])
def test_what_is_no_row_is_told(tmp_path: Path, text: bytes) -> None:
    write_run(tmp_path / "exp", "his").write_bytes(text)
    with pytest.warns(RowsWarning, match=r"lacks run_id|garbled line \(1\)"):
        assert load(tmp_path).empty


def test_text_of_another_encoding_is_told(tmp_path: Path) -> None:
    path = write_run(tmp_path / "exp", "his")
    path.write_bytes(path.read_bytes().replace(b"tiny", b"t\xfcny"))
    with pytest.warns(RowsWarning, match="is not in UTF-8"):
        assert load(tmp_path).empty


def test_what_is_no_file_is_told_and_the_others_are_read(tmp_path: Path) -> None:
    write_run(tmp_path / "exp", "his")
    (tmp_path / "exp" / "folder.jsonl").mkdir()
    with pytest.warns(RowsWarning, match=r"folder\.jsonl cannot be read"):
        assert len(load(tmp_path)) == 2


def test_rows_of_one_run_that_differ_in_a_knob_are_no_single_curve(tmp_path: Path) -> None:
    path = write_run(tmp_path / "exp", "hies", alpha=0.5, ratios=(0.0, 0.2, 0.4), quality=(90, 80, 70))
    rows = rows_in(path)
    write_rows(path, [rows[0], {**rows[1], "alpha": 0.7}, rows[2]])
    frame = load(tmp_path)
    assert frame["alpha"].tolist() == [0.5, 0.5, 0.7] and frame["ratio"].tolist() == [0.0, 0.4, 0.2]
    assert frame["curve"].nunique() == 2


def test_the_frame_is_what_pandas_makes_of_the_rows(tmp_path: Path) -> None:
    written = []
    for seed, keys in enumerate(
        [{"alpha": 0.5}, {"sites": None}, {"alpha": "auto", "alpha_used": 0.1}, {"tune": True}]
    ):
        written += rows_in(write_run(tmp_path / "exp", f"c{seed}", seed=seed, quality=(90, None), **keys))
    expected = pd.DataFrame(written).astype({"value": float, "quality": float})
    found = load(tmp_path)
    pd.testing.assert_frame_equal(found[[*expected]], expected)
    added = {
        "path",
        "curve",
        "jobs_declared",
        "jobs_finished",
        "tasks_without_rows",
        "loss",
        "token_loss",
        "quality_norm",
        "refit",
        "correlation",
        "tempered",
    }
    assert {*found} - {*expected} == added and found["quality_norm"].equals(found["quality"].rename("quality_norm"))
    assert found[["loss", "token_loss", "refit", "correlation", "tempered"]].isna().all(axis=None)
    assert gc.isenabled()


def test_arrays_of_another_run_are_refused(tmp_path: Path) -> None:
    path = seal(write_run(tmp_path / "exp", "his"))
    own_arrays(path, run_id=np.array(path.stem))
    row = load(tmp_path).iloc[0]
    assert load_scores(row).values["scores"].tolist() == [0, 1, 2, 3, 4]
    assert "run_id" not in runs_module.read_arrays(path)
    own_arrays(path, run_id=np.array("run-other"))
    with pytest.raises(Unavailable, match="belongs to another run"):
        load_scores(row)
    with pytest.raises(Unavailable, match="belongs to another run"):
        load_arrays(row)
    with pytest.warns(RowsWarning, match=r"score file .* belongs to another run and is left out"):
        pack(tmp_path / "exp", tmp_path / "packed")


@pytest.mark.parametrize(
    "arrays",
    [
        {"scores": np.array(["a", "b", "c", "d", "e"])},
        {"scores": np.arange(5) * 1j},
        {"scores": np.array([None] * 5)},
        {"sites": np.arange(2)},
        {"heads": np.array([2.0, 3.0])},
        {"predictions": np.array([1], dtype="datetime64[s]")},
        {"run_id": np.array(["run-tiny-toy-his-s0"])},
    ],
)
def test_arrays_of_the_wrong_type_are_told(tmp_path: Path, arrays: dict) -> None:
    path = write_run(tmp_path / "exp", "his")
    row = load(tmp_path).iloc[0]
    own_arrays(path, **arrays)
    with pytest.raises(runs_module.BadFile, match=r"\.npz cannot be read"):
        runs_module.read_arrays(path)
    with pytest.raises(Unavailable, match="cannot be read"):
        load_arrays(row)


@pytest.mark.parametrize("shape", ["(99999999999999,)", "(4294967296, 4294967296)", "(-1,)", "('a',)", "(2, 1000000)"])
def test_an_array_of_an_absurd_shape_is_told(tmp_path: Path, shape: str) -> None:
    path = write_run(tmp_path / "exp", "his")
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}}}".encode()
    with zipfile.ZipFile(path.with_suffix(".npz"), "w") as archive:
        archive.writestr("ratios.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(16))
    with pytest.raises(runs_module.BadFile):
        runs_module.read_arrays(path)


def test_flipped_bytes_of_a_score_file_are_harmless_or_told(tmp_path: Path) -> None:
    path = seal(write_run(tmp_path / "exp", "his"))
    whole, chance, told = path.with_suffix(".npz").read_bytes(), random.Random(0), 0
    sound = runs_module.read_arrays(path)
    for _ in range(200):
        place = chance.randrange(len(whole))
        flipped = bytes([whole[place] ^ (1 << chance.randrange(8))])
        path.with_suffix(".npz").write_bytes(whole[:place] + flipped + whole[place + 1 :])
        try:
            arrays = runs_module.read_arrays(path)
        except runs_module.BadFile:
            told += 1
        else:
            assert all(np.array_equal(arrays[name], sound[name]) for name in arrays)
    assert told > 100


def test_names_that_lead_out_of_the_folder_are_refused(tmp_path: Path) -> None:
    secret = write_run(tmp_path / "secret", "his")
    results = tmp_path / "results"
    pack(secret.parent, results / "exp")
    hostile = secret.read_text().replace(secret.stem, f"../../secret/{secret.stem}")
    (results / "exp" / "rows.jsonl.gz").write_bytes(gzip.compress(hostile.encode()))
    with pytest.warns(RowsWarning, match="is no run id and is left out"):
        assert load(results).empty
    with pytest.warns(RowsWarning, match="is no name of an experiment"):
        assert load(results, "../secret").empty


def test_a_file_whose_name_is_no_run_id_is_left_out_and_steers_no_terminal(tmp_path: Path) -> None:
    path = write_run(tmp_path / "exp", "his")
    path.rename(path.with_name("run \x1b[2J.jsonl"))
    with pytest.warns(RowsWarning, match=r"run \?\[2J\.jsonl has a name that is no run id and is left out"):
        assert load(tmp_path).empty


def test_a_grid_names_no_file_outside_and_steers_no_terminal(tmp_path: Path) -> None:
    write_grid(tmp_path / "exp", ("his", 0), ("ae", 0))
    grid = json.loads((tmp_path / "exp" / "grid.json").read_text())
    grid["jobs"][0] |= {"command": "run \x1b]0;x\x07 it\u2028", "parameters": {"alpha": "\x1b[2J"}}
    grid["jobs"][1]["run_id"] = "../../secret/run"
    (tmp_path / "exp" / "grid.json").write_text(json.dumps(grid))
    with pytest.warns(RowsWarning, match="declares 1 jobs with a name that is no run id"):
        (job,) = missing_jobs(tmp_path, load(tmp_path))
    assert job.command == "run ?]0;x? it?" and str(job) == "tiny, toy, his, alpha=?[2J, seed 0"


@pytest.mark.parametrize(
    "content",
    [b"[]", b'{"jobs": 7}', b'{"jobs": [7]}', b"\xff", b'{"jobs": [{"run_id": ["x"], "model": 1, "task": 1, '
     b'"criterion": 1, "parameters": 1, "seed": 1, "command": 1}]}'],
)  # fmt: skip
def test_a_grid_of_other_types_is_told(tmp_path: Path, content: bytes) -> None:
    write_run(tmp_path / "exp", "his")
    (tmp_path / "exp" / "grid.json").write_bytes(content)
    with pytest.warns(RowsWarning, match="is no list of jobs"):
        assert len(load(tmp_path)) == 2


def test_a_pack_is_sealed_anew_and_holds_nothing_of_a_failed_run(tmp_path: Path) -> None:
    exp = tmp_path / "exp"
    path = seal(write_run(exp, "his", command="python -m experiments.run results_dir=/home/me seed=0"))
    own_arrays(path, run_id=np.array(path.stem))
    (exp / f"{run_name('ae', 0)}.failed.json").write_text('{"error": "SECRET", "command": "c"}')
    np.savez(exp / f"{run_name('ae', 0)}.npz", scores=np.arange(3.0))
    pack(exp, tmp_path / "packed" / "exp")
    assert sorted(one.name for one in (tmp_path / "packed" / "exp").iterdir()) == ["arrays.npz.xz", "rows.jsonl.gz"]
    rows = load(tmp_path / "packed")
    assert rows["command"].unique().tolist() == ["python -m experiments.run seed=0"]
    text = gzip.decompress((tmp_path / "packed" / "exp" / "rows.jsonl.gz").read_bytes()).decode()
    write_rows(path, [json.loads(line) for line in text.splitlines()])
    without("digest")(path), without("rows")(path)
    assert seal(path).read_text() == text
    with lzma.open(tmp_path / "packed" / "exp" / "arrays.npz.xz") as plain, zipfile.ZipFile(plain) as archive:
        assert {name.split("/")[0] for name in archive.namelist()} == {path.stem}
    (tmp_path / "packed" / "exp" / "rows.jsonl.gz").write_bytes(gzip.compress(text.replace("80.0", "99.0").encode()))
    with pytest.warns(RowsWarning, match=r"was changed after it was written \(line 2\)"):
        assert load(tmp_path / "packed").empty


def test_a_command_with_a_quotation_mark_too_few_does_not_stop_a_pack(tmp_path: Path) -> None:
    write_run(tmp_path / "exp", "his", command="python 'home=/home/me")
    pack(tmp_path / "exp", tmp_path / "packed" / "exp")
    assert load(tmp_path / "packed")["command"].tolist() == ["", ""]


def test_versions_that_differ_within_a_curve_are_told_once_an_experiment(tmp_path: Path, recwarn) -> None:
    old, new = {"torch": "2.1", "numpy": "2.4"}, {"numpy": "2.4", "torch": "2.2"}
    for seed, versions in enumerate([old, new, {**new, "datasets": "5.0"}]):
        for criterion in ("his", "ae"):
            write_run(tmp_path / "exp", criterion, seed=seed, versions=versions, revision=f"revision {seed}")
    assert len(load(tmp_path)) == 12
    assert [str(one.message) for one in recwarn] == [
        "exp: rows of one curve were computed under different versions (datasets 5.0 and unknown; torch 2.1 and 2.2), "
        "for example AE of tiny on toy."
    ]


def test_curves_that_have_versions_of_their_own_are_not_told(tmp_path: Path, recwarn) -> None:
    write_run(tmp_path / "exp", "his", versions={"torch": "2.1"}, revision="a")
    write_run(tmp_path / "exp", "ae", versions={"torch": "2.2"}, revision="b")
    write_run(tmp_path / "exp", "ae", seed=1, versions={"torch": "2.2"}, revision="c")
    assert len(load(tmp_path)) == 6 and not recwarn.list


@pytest.mark.parametrize("report", ["small-models", "glue-minilm"])
def test_the_reports_load_without_a_warning(report: str, recwarn) -> None:
    assert not load(REPORTS / report).empty and not recwarn.list
