import contextlib
import gzip
import io
import json
import lzma
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from analysis_runs import run_name, write_grid, write_run
from command_line import output_that_nobody_reads

from analysis import cli as analysis_cli
from analysis import load, load_arrays, load_scores, missing_jobs
from analysis.errors import Unavailable
from analysis.pack import main
from hies.errors import RowsWarning
from hies.runs import pack as packing
from hies.runs.pack import pack

RATIOS = (0.0, 0.3)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    exp = tmp_path / "results" / "exp"
    answers = {"labels": np.array([0, 1, 1, 2]), "predictions": np.array([[0, 1, 1, 2], [0, 1, 0, 0]])}
    for seed in (0, 1):
        options = {"ratios": RATIOS, "arrays": answers, "scores": list(np.random.default_rng(seed).random(5))}
        write_run(exp, "his", seed, (75, 50 + seed), **options)
        write_run(exp, "hies", seed, (75, None), alpha="auto", alphas=[0.1, 0.5], alpha_used=0.5, **options)
    return tmp_path / "results"


def without_place(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.assign(path=[Path(path).name for path in rows["path"]])


def packed(results: Path) -> Path:
    pack(results / "exp", results.parent / "packed" / "exp")
    return results.parent / "packed"


def unpacked(folder: Path) -> zipfile.ZipFile:
    return zipfile.ZipFile(io.BytesIO(lzma.decompress((folder / "arrays.npz.xz").read_bytes())))


def test_a_pack_is_read_like_the_files_it_was_made_of(results: Path) -> None:
    write_grid(results / "exp", ("his", 0), ("his", 7))
    target = packed(results)
    assert sorted(path.name for path in (target / "exp").iterdir()) == ["arrays.npz.xz", "grid.json", "rows.jsonl.gz"]
    single, together = load(results), load(target)
    assert len(single) == 8
    pd.testing.assert_frame_equal(without_place(single), without_place(together))
    assert missing_jobs(results, single) == missing_jobs(target, together) != []
    for (_, one), (_, other) in zip(single.iterrows(), together.iterrows(), strict=True):
        pd.testing.assert_series_equal(pd.Series(vars(load_scores(one))), pd.Series(vars(load_scores(other))))
        mine, theirs = load_arrays(one), load_arrays(other)
        assert list(mine) == list(theirs) and all(mine[name].dtype == theirs[name].dtype for name in mine)
        assert all(np.array_equal(mine[name], theirs[name]) for name in mine)


def test_tables_and_figures_of_a_pack_have_the_same_bytes(results: Path, tmp_path: Path) -> None:
    written = {}
    for source in (results, packed(results)):
        out = tmp_path / f"out-{source.name}"
        assert analysis_cli.main(["agreement", "quality", "claims", "--results", str(source), "--out", str(out)]) == 0
        written[source.name] = {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*.*")}
    assert written["results"] == written["packed"] and len(written["packed"]) == 6


def test_packing_again_gives_the_same_bytes_even_from_a_pack(results: Path, tmp_path: Path) -> None:
    write_grid(results / "exp", ("his", 0))
    first = [path.read_bytes() for path in pack(results / "exp", tmp_path / "one")]
    for path in (results / "exp").iterdir():
        path.touch()
    assert [path.read_bytes() for path in pack(results / "exp", tmp_path / "two")] == first
    assert [path.read_bytes() for path in pack(tmp_path / "one", tmp_path / "three")] == first
    assert {member.date_time[0] for member in unpacked(tmp_path / "one").infolist()} == {1980}
    assert (tmp_path / "one" / "rows.jsonl.gz").read_bytes()[4:8] == bytes(4)  # gzip's time


def test_a_task_is_added_to_a_pack_and_replaced_in_it_whole(tmp_path: Path) -> None:
    both, first, second, third = (tmp_path / name / "exp" for name in ("both", "first", "second", "third"))
    for folder, tasks in ((both, ("a", "b")), (first, ("a",)), (second, ("b",))):
        for task in tasks:
            write_run(folder, "his", 0, (75, 50), task=task, ratios=RATIOS, scores=[0.1, 0.2])
        write_grid(folder, ("his", 0))
    expected = [path.read_bytes() for path in pack(both, tmp_path / "at-once" / "exp")]
    target = tmp_path / "packed" / "exp"
    pack(first, target)
    arrays, rows, _ = pack(second, target)
    assert [arrays.read_bytes(), rows.read_bytes()] == expected[:2]
    write_run(third, "ae", 0, (75, 60), task="b", ratios=RATIOS)
    pack(third, target)
    left = load(target.parent)
    assert sorted(zip(left["task"], left["criterion"], strict=True)) == [("a", "his")] * 2 + [("b", "ae")] * 2


def test_a_pack_that_cannot_be_read_is_not_written_over(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = packed(results)
    (target / "exp" / "rows.jsonl.gz").write_bytes(b"no gzip")
    assert main(["--results", str(results), "--experiment", "exp", "--out", str(target)]) == 2
    assert "rows.jsonl.gz cannot be read; remove it, or name another folder." in capsys.readouterr().err
    assert (target / "exp" / "rows.jsonl.gz").read_bytes() == b"no gzip"


def test_what_runs_share_is_stored_once(tmp_path: Path) -> None:
    answers = {"labels": np.zeros(2000), "predictions": np.zeros((2, 2000))}
    losses = np.random.default_rng(0).random((2, 2000)).astype(np.float32)
    for seed in range(7):
        write_run(tmp_path / "exp", "his", seed, ratios=RATIOS, arrays={**answers, "losses": losses})
    arrays, *_ = pack(tmp_path / "exp", tmp_path / "packed")
    assert arrays.stat().st_size < 1.2 * losses.nbytes


def test_arrays_are_as_small_as_their_values_allow_and_ratios_stay_exact(results: Path, tmp_path: Path) -> None:
    scores = np.array([0.2, 2.5, 4.1, -0.3])
    arrays = {"predictions": np.stack([scores, scores + 1]), "labels": scores}
    write_run(results / "exp", "ae", ratios=RATIOS, arrays=arrays)
    with lzma.open(packed(results) / "exp" / "arrays.npz.xz") as plain, np.load(plain) as file:
        his, ae = run_name("his", 0), run_name("ae", 0)
        types = {name: file[f"{his}/{name}"].dtype for name in ("scores", "his", "predictions", "labels", "ratios")}
        assert types == {"scores": "f4", "his": "f4", "predictions": "u1", "labels": "u1", "ratios": "f8"}
        assert file[f"{ae}/predictions"].dtype == "f4" and file[f"{ae}/ratios"].tolist() == [0.0, 0.3]


def test_no_path_to_data_is_left_and_all_else_of_a_row_is_kept(results: Path) -> None:
    exp = results / "exp"
    command = (
        "python -m experiments.run task=rte 'data_root=/home/me/my data' cache_dir=/tmp/c results_dir=r "
        "wandb.mode=offline device=cpu 'sparsity.ratios=[0.1,0.3]' seed=0"
    )
    path = write_run(exp, "l2", command=command)
    job = {"run_id": "x", "model": "m", "task": "t", "criterion": "l2", "parameters": {}, "seed": 0, "command": command}
    (exp / "grid.json").write_text(json.dumps({"jobs": [job]}))
    target = packed(results) / "exp"
    expected = "python -m experiments.run task=rte data_root=$HIES_DATA 'sparsity.ratios=[0.1,0.3]' seed=0"
    lines = [json.loads(line) for line in gzip.decompress((target / "rows.jsonl.gz").read_bytes()).splitlines()]
    mine = [row for row in lines if row["run_id"] == path.stem]
    assert mine == [{**json.loads(line), "command": expected} for line in path.read_text().splitlines()]
    assert json.loads((target / "grid.json").read_text()) == {"jobs": [{**job, "command": expected}]}
    assert not any(b"/home/me" in file.read_bytes() for file in target.iterdir() if file.suffix != ".gz")


def test_a_run_that_cannot_be_trusted_is_left_out_of_the_pack(results: Path) -> None:
    write_run(results / "exp", "ad").with_suffix(".npz").write_bytes(b"PK no zip file")
    with pytest.warns(RowsWarning, match="run-tiny-toy-ad-s0.* cannot be read and is left out"):
        target = packed(results)
    assert set(load(target)["criterion"]) == {"his", "hies"}


def test_a_pack_without_arrays_has_its_rows(results: Path) -> None:
    target = packed(results)
    (target / "exp" / "arrays.npz.xz").unlink()
    rows = load(target)
    assert len(rows) == 8
    with pytest.raises(Unavailable, match="missing"):
        load_scores(rows.iloc[0])


def test_an_older_pack_is_told(results: Path) -> None:
    target = packed(results) / "exp"
    (target / "arrays.npz.xz").rename(target / "arrays.npz")
    with pytest.warns(RowsWarning, match="arrays.npz.* is of a pack that an earlier version made; pack the runs again"):
        pack(target, results / "again")


def test_a_damaged_pack_is_told(results: Path) -> None:
    target = packed(results) / "exp"
    whole = {name: (target / name).read_bytes() for name in ("rows.jsonl.gz", "arrays.npz.xz")}
    (target / "arrays.npz.xz").write_bytes(whole["arrays.npz.xz"][:-100])
    with pytest.warns(RowsWarning, match="cannot be read and is left out"):
        assert load(target.parent).empty
    (target / "arrays.npz.xz").write_bytes(whole["arrays.npz.xz"])
    (target / "rows.jsonl.gz").write_bytes(whole["rows.jsonl.gz"][:-20])
    with pytest.warns(RowsWarning, match=r"rows\.jsonl\.gz cannot be read and is left out"):
        assert load(target.parent).empty


def test_a_pack_that_was_written_anew_is_read_anew(results: Path) -> None:
    before = load_scores(load(packed(results), "exp").iloc[0]).values["scores"]
    for path in (results / "exp").iterdir():
        path.unlink()
    for criterion, keys in (("his", {}), ("hies", {"alpha": "auto"})):
        write_run(results / "exp", criterion, ratios=RATIOS, scores=[9, 8, 7, 6, 5], **keys)
    after = load_scores(load(packed(results), "exp").iloc[0]).values["scores"]
    assert after.tolist() == [9, 8, 7, 6, 5] != before.tolist()


def test_single_files_beside_a_pack_are_not_read_in_silence(results: Path) -> None:
    target = packed(results)
    write_run(target / "exp", "ad")
    with pytest.warns(RowsWarning, match="is packed, so 1 single row files"):
        assert "ad" not in set(load(target)["criterion"])


def test_the_command_packs_what_is_named(results: Path, tmp_path: Path, capsys) -> None:
    write_run(results / "other", "his")
    write_run(results / "third", "his")
    out = tmp_path / "reports"
    assert main(["--results", str(results), "--experiment", "exp", "other", "--out", str(out)]) == 0
    assert sorted(path.name for path in out.iterdir() if path.is_dir()) == ["exp", "other"]
    printed = capsys.readouterr().out
    assert f"{out / 'exp' / 'arrays.npz.xz'}: " in printed and printed.count(" KiB") == 4


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--experiment", "exq", "--out", "x"], ["--experiment=exq", "did you mean exp"]),
        (["--experiment", "exp"], ["--out", "python -m analysis.pack --help"]),
        (["--experiment", "empty", "--out", "x"], ["--experiment=empty has no rows"]),
        (["--experiment", "exp", "--out", "RESULTS"], ["is where the rows are"]),
        (["--experiment", "exp", "--out", "FILE"], ["--out cannot be written to"]),
    ],
)
def test_errors_are_one_sentence(results: Path, tmp_path: Path, arguments: list[str], words: list[str], capsys) -> None:
    write_grid(results / "empty", ("his", 0))
    (tmp_path / "file").write_text("")
    places = {"RESULTS": str(results), "FILE": str(tmp_path / "file")}
    assert main(["--results", str(results), *(places.get(one, one) for one in arguments)]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1 and captured.out == ""
    assert [word for word in words if word not in captured.err] == []


def test_a_reader_that_leaves_is_no_error(
    results: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr("sys.stdout", output_that_nobody_reads())
    out = ["--out", str(results.parent / "packed")]
    assert main(["--results", str(results), "--experiment", "exp", *out]) == 141
    assert (results.parent / "packed" / "exp" / "rows.jsonl.gz").is_file() and not any(capfd.readouterr())


def test_two_packs_into_one_folder_at_a_time_lose_no_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks, target = ("cola", "sst2"), tmp_path / "packed" / "exp"
    for task in tasks:
        write_run(tmp_path / task / "exp", "his", 0, (75, 50), task=task, ratios=RATIOS)
    both, npz = threading.Barrier(2), packing._npz

    def when_both_have_read(arrays: dict[str, np.ndarray]) -> bytes:
        with contextlib.suppress(threading.BrokenBarrierError):  # the other one waits, as it should
            both.wait(timeout=1)
        return npz(arrays)

    monkeypatch.setattr(packing, "_npz", when_both_have_read)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda task: pack(tmp_path / task / "exp", target), tasks))
    assert {*load(target.parent)["task"]} == {*tasks}
    assert sorted(path.name for path in target.iterdir()) == ["arrays.npz.xz", "rows.jsonl.gz"]
