"""What a person may get wrong in files: one sentence each with file, row and column, and right files read right."""

import json
import re
import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from hies.errors import HiesError
from hies.tasks import TASKS
from hies.tasks.own import cells

ROWS = [{"id": i, "review": f"film {i} was {'good' if i % 3 else 'bad'}", "stars": "ab"[i % 2]} for i in range(37)]


def table(path, rows=ROWS, **options):
    pd.DataFrame(rows).to_csv(path, index=False, **options)
    return path


def loaded(path, **options):
    return TASKS["table"](train=str(path), **options).load_checked(None, path.parent)


def text_with(**cells):
    return [{**ROWS[0], **cells}, *ROWS[1:]]


BAD = {
    "empty": ("", r"^films\.csv is empty; task\.train needs a file with examples\.$"),
    "header alone": ("review,stars\n", r"^films\.csv has no rows; task\.train needs"),
    "semicolons": (
        "review;stars\ngood, really;a\nbad;b\n",
        r"""^films\.csv, line 1: there is one column, 'review;stars', .*; give task\.separator='";"'\.$""",
    ),
    "too many fields": (
        "review,stars\ngood,a\nbad, very bad,b\n",
        r"^films\.csv, row 2: it has 3 fields, but there are 2 columns, review, stars; put a text that holds ','",
    ),
    "too few fields": (
        "review,stars\ngood,a\nbad\n",
        r"^films\.csv, row 2: it has 1 field, but there are 2 columns, review, stars; fill in what is missing",
    ),
    "open quote": ('review,stars\n"good,a\nbad,b\n', r"^films\.csv, line 2: the quote that opens a field never closes"),
    "open quote in the last column": ('stars,review\na,"good\nb,bad\n', r"^films\.csv, line 2: .* never closes, so"),
    "two open quotes": (
        'review,stars\ngood,a\n"so it goes,b\nbad,b\n"odd,a\nfine,b\n',
        r"^films\.csv, line 3: the quote that opens a field closes in line 5 with text right behind it, so rows",
    ),
    "a quote at a beginning and one at an end": (
        'review,stars\r\ngood,a\r\n"so it goes,b\r\n\r\nbad,b\r\nodd",a\r\nfine,b\r\n',
        r"^films\.csv, line 3: the quote .* closes in line 6, and what stands between looks like rows, so",
    ),
    "such quotes in the last column": (
        'stars,review\n7,good\n8,"so it goes\n9,odd"\n10,fine\n',
        r"^films\.csv, line 3: the quote .* closes in line 4, and what stands between looks like rows",
    ),
    "such quotes behind a good one": (
        'review,more,stars\n"good,\nreally","x",a\n"""so""","it goes,b\nbad,y,b\nodd,z",a\nfine,w,b\n',
        r"^films\.csv, line 4: the quote .* closes in line 6, and what stands between looks like rows",
    ),
    "huge header": ('"' + "x" * 140_000 + '",stars\ngood,a\n', r"^films\.csv, line 1: the header cannot be read \("),
    "a blank line before semicolons": ("\nreview;stars\ngood;a\n", r"^films\.csv, line 1: there is one column"),
    "upper case": ("review,stars\ngood,us\nbad,US\n", r"^films\.csv, row 2, .* 'US' may be 'us' of films\.csv, row 1;"),
    "two ways of a number": ("review,stars\ngood,1\nbad,1.0\n", r"row 2, column 'stars': '1\.0' may be '1' of films"),
    "tabs": ("review\tstars\ngood\ta\nbad\tb\n", r"seem to be parted by '\\t'; call the file FILE\.tsv\.$"),
    "utf-16": ("review,stars\ngut,a\nbad,b\n".encode("utf-16"), r"not in utf-8; .* as in task\.encoding=utf-16\.$"),
    "two columns of a name": ("review,stars,review\na,b,c\n", r"has two columns with the name 'review'"),
    "latin-1": (
        "review,stars\ngut,a\nschön,b\n".encode("latin-1"),
        r"^films\.csv, line 3, byte 4: it is not in utf-8; save it .* as in task\.encoding=latin-1\.$",
    ),
    "one class": (
        "review,stars\ngood,a\nbad,a\n",
        r"^films\.csv, column 'stars': all 2 rows have the same label, 'a'; give rows of others, too\.$",
    ),
    "no label": ("review,stars\ngood,a\nbad,\n", r"^films\.csv, row 2, column 'stars': there is no label; mend"),
    "NaN as label": ("review,stars\ngood,a\nbad,NaN\n", r"row 2, column 'stars': there is no label"),
    "NaN as text": ("review,stars\nnan,a\nbad,b\n", r"^films\.csv, row 1, column 'review': there is no text"),
    "blank text": ('review,stars\ngood,a\n"  ",b\n', r"row 2, column 'review': there is no text"),
    "fraction": ("review,stars\ngood,a\nbad,2.5\n", r"row 2, column 'stars': '2\.5' is no class; for scores give"),
    "duplicate ids": (
        "id,review,stars\n7,good,a\n8,bad,b\n7,fine,a\n",
        r"^films\.csv, row 3, column 'id': row 1 has the same id, '7'; mend one, or give task\.id=null",
    ),
    "10 MB text": (
        f"review,stars\ngood,a\n{'x' * 10_000_000},b\n",
        r"^films\.csv, row 2, column 'review': the text has 10,000,000 characters, and at most 1,000,000 are read",
    ),
    "a class in one row": (
        "review,stars\n" + "".join(f"good {i},{'ab'[i % 2]}\n" for i in range(20)) + "odd,c\n",
        r"^films\.csv has 21 rows, 1 of them 'c', from which splits cannot be drawn",
    ),
    "no columns known": ("one,two,three\n1,2,3\n", r"^task\.text is None; films\.csv has the columns one, two, three;"),
}  # fmt: skip


@pytest.mark.parametrize("content, says", BAD.values(), ids=BAD)
def test_bad_data_is_refused_in_a_sentence(tmp_path, content, says):
    path = tmp_path / "films.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(HiesError, match=says) as caught:
        loaded(path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 320


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"text": "revue"}, r"^task\.text is 'revue'; films\.csv has the columns id, review, stars\.$"),
        ({"label": "star"}, r"^task\.label is 'star'; films\.csv has the columns"),
        ({"id": "key"}, r"^task\.id is 'key'; films\.csv has the columns"),
        ({"encoding": "utf-99"}, r"^task\.encoding is 'utf-99'; Python knows none"),
        ({"separator": "::"}, r"^task\.separator is '::'; give a single character"),
        ({"report": "none.csv"}, r"^task\.report is 'none\.csv'; there is no such file"),
        ({"report": "films.xlsx"}, r"^task\.report is 'films\.xlsx'; there is no such file; give one that ends"),
        ({"metric": "f1", "label": "review", "text": "stars"}, r"^task\.metric is 'f1'; it is of two classes, and"),
        ({"label": ["stars", "id"]}, r"^films\.csv, row 1, column 'stars': 'a' is neither 0 nor 1"),
        ({"kind": "regression", "scale": [1, 5]}, r"row 1, column 'stars': 'a' is no score from 1 to 5"),
        ({"image": "review"}, r"row 1, column 'review': .*film 0 was bad cannot be read"),
        ({"label": []}, r"^task\.label is \[\]; name a column, or a list of different ones\.$"),
        ({"label": 7}, r"^task\.label is '7'; films\.csv has the columns id, review, stars\.$"),
        ({"text_pair": "review"}, r"^task\.text is None; name the column of the texts that those in 'review' belong"),
        ({"text": "review", "text_pair": "review"}, r"^task\.text_pair is 'review'; this is task\.text already"),
        ({"text": "review", "label": "review"}, r"^task\.label is 'review'; this is task\.text already"),
        ({"text": "review", "image": "id"}, r"^task\.text is 'review'; there are images \(task\.image\)"),
        ({"separator": ";"}, r"^films\.csv, line 1: there is one column, .* parted by ','; leave task\.separator out"),
        ({"encoding": "utf-16"}, r"^films\.csv, line 1, byte 1: it is not in utf-16; save it in UTF-8, or name its"),
    ],
)  # fmt: skip
def test_options_that_do_not_fit_the_file_are_refused(tmp_path, options, says):
    with pytest.raises(HiesError, match=says):
        loaded(table(tmp_path / "films.csv"), **options)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"kind": "classes"}, r"^kind is 'classes'; use classification, multi_label or regression"),
        ({"metric": "pearson"}, r"^metric is 'pearson'; for task\.kind=classification use accuracy or f1 or"),
        ({"kind": "regression"}, r"^scale is None; give the lowest and the highest score"),
        ({"kind": "regression", "scale": [5, 1]}, r"^scale is \[5, 1\]"),
        ({"classes": ["a", "a"]}, r"^classes is \['a', 'a'\]; give a list with each class once"),
        ({"name": "../x"}, r"^name is '\.\./x'; use letters"),
        ({"name": ".."}, r"^name is '\.\.'; use letters"),
        ({"scale": [1, 5]}, r"^scale is \[1, 5\]; task\.kind=classification has none; leave it out"),
        ({"kind": "regression", "scale": [1, 5], "classes": ["a", "b"]}, r"^classes is \['a', 'b'\]; task\.kind=regr"),
        ({"train": "cola.csv"}, r"^name is 'cola'; a task of the benchmark has this name, give another one"),
    ],
)
def test_options_that_no_file_fits_are_refused_before_one_is_read(options, says):
    with pytest.raises(HiesError, match=says):
        TASKS["table"](**options)


@pytest.mark.parametrize(
    "review",
    [
        "two\nlines",
        "Dear all,\nthis is it",
        "one, two\nthree, four\n\nfive, six\nno more",
        'she said "so",\nand ""left""',
        '"so, a\n"',
        "",
    ],
)
@pytest.mark.parametrize(("name", "separator"), [("films.csv", ","), ("films.tsv", "\t")])
def test_texts_of_several_lines_are_read_whole(tmp_path, review, name, separator):
    rows = [{"review": f"{i}{review}", "stars": row["stars"]} for i, row in enumerate(ROWS)]
    splits = loaded(table(tmp_path / name, rows, sep=separator))
    seen = [text for split in (splits.train, splits.selection, splits.report) for text in split.inputs["text"]]
    assert sorted(seen) == sorted(row["review"] for row in rows)


def test_line_ends_of_old_macs_are_read(tmp_path):
    first = loaded(table(tmp_path / "films.csv"))
    path = tmp_path / "films.csv"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r"))
    assert loaded(path).digest() == first.digest()


def test_labels_in_the_report_alone_are_said(tmp_path):
    train = table(tmp_path / "train.csv")
    report = table(
        tmp_path / "test.csv", [{**row, "review": f"new {i}", "stars": "abc"[i % 3]} for i, row in enumerate(ROWS)]
    )
    task = TASKS["table"](train=str(train), report=str(report))
    with pytest.warns(UserWarning, match=r"^12 rows of test\.csv have labels that train\.csv lacks, 'c': a model that"):
        assert task.load_checked(None, tmp_path).report.labels.max() == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        task.for_classifier(["c", "b", "a"], None).load_checked(None, tmp_path)
        replace(task, classes=["a", "b", "c"]).load_checked(None, tmp_path)


@pytest.mark.parametrize(
    ("cells", "says"),
    [
        ([[1, 0, 0], [0, 1, 1], [0, 0, 0]], r"row 1, column 'stars': \[1, 0, 0\] has '0' twice; list the labels"),
        ([["a"], [True, False, True]], r"row 2, column 'stars': \[True, False, True\] has 'True' twice"),
        ([[0], [1.0, 0.0, 1]], r"row 2, column 'stars': \[1\.0, 0\.0, 1.*\] has '1' twice"),
        ([["a"], ["b", " a", "a "]], r"row 2, column 'stars': .* has 'a' twice"),
        (["a", "b|a|b"], r"row 2, column 'stars': .* has 'b' twice"),
        ([[1, 0], [0, 1], [1, 0]], r"row 1, column 'stars': \[1, 0\] is 0 and 1 alone, as in all rows, .* columns, as"),
        ([[1.0], [0.0]], r"row 1, column 'stars': \[1\.0\] is 0 and 1 alone, as in all rows"),
        ([[True, False], [False, True]], r"row 1, column 'stars': \[True, False\] is 0 and 1 alone"),
        (["a", "['a', 'b']"], r"row 2, column 'stars': .* is a list that was written as a text; part names by '\|'"),
        (["[1, 0, 0]", "[0 1 1]"], r"row 1, column 'stars': '\[1, 0, 0\]' is a list that was written as a text"),
        (["1 0 0", "0 1 1"], r"row 1, column 'stars': '1 0 0' is a list that was written as a text"),
    ],
)
@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_lists_that_do_not_name_labels_are_refused(tmp_path, form, cells, says):
    path = tmp_path / f"films.{form}"
    frame = pd.DataFrame([{**row, "stars": cells[i % len(cells)]} for i, row in enumerate(ROWS)])
    if form == "jsonl":
        frame.to_json(path, orient="records", lines=True)
    else:
        try:
            frame.to_parquet(path)
        except (ValueError, TypeError):
            pytest.skip("a column of parquet is of one type")
    with pytest.raises(HiesError, match=rf"^films\.{form}, {says}"):
        loaded(path, kind="multi_label")


@pytest.mark.parametrize(
    ("cells", "held"),
    [
        ([[0, 1], [1], [], [0]], {"11", "01", "00", "10"}),
        ([[1, 0], [2, 0]], {"110", "101"}),
        ([["1", "0"], ["0"]], {"11", "10"}),
        (["0|1", "1"], {"11", "01"}),
        ([["[a]"], ["b", "[a]"]], {"10", "11"}),
        (["[a]", "b"], {"10", "01"}),
    ],
)
def test_lists_of_names_that_are_numbers_stay_names(tmp_path, cells, held):
    path = tmp_path / "films.jsonl"
    path.write_text("\n".join(json.dumps({**row, "stars": cells[i % len(cells)]}) for i, row in enumerate(ROWS)))
    assert set(loaded(path, kind="multi_label").train.labels.tolist()) == held


def test_0_and_1_in_one_file_alone_may_be_names(tmp_path):
    train, report = (tmp_path / f"{name}.jsonl" for name in ("train", "report"))
    rows = [{**row, "stars": [[0, 2], [1]][i % 2]} for i, row in enumerate(ROWS)]
    train.write_text("\n".join(map(json.dumps, rows)))
    rest = [{**row, "review": f"other {i}", "stars": [[0], [1]][i % 2]} for i, row in enumerate(ROWS)]
    report.write_text("\n".join(map(json.dumps, rest)))
    assert set(loaded(train, report=str(report), kind="multi_label").report.labels.tolist()) == {"100", "010"}


@pytest.mark.parametrize("labels", ["a|b", "", "b|a"])
def test_several_labels_that_are_always_the_same_are_refused(tmp_path, labels):
    path = table(tmp_path / "films.csv", [{**row, "stars": labels} for row in ROWS])
    says = r"^films\.csv, column 'stars': all 37 rows have the same labels, (a, b|none); give rows of others, too\.$"
    with pytest.raises(HiesError, match=says):
        loaded(path, kind="multi_label")


def test_without_a_file_the_option_is_named():
    for kind in ("table", "text", "choice"):
        with pytest.raises(HiesError, match=r"^task\.train is None; name the file of your examples"):
            TASKS[kind]().identity(None)
        with pytest.raises(HiesError, match=r"^task\.train is ''; name the file of your examples"):
            TASKS[kind](train="").identity(None)


def test_every_format_gives_the_same_examples(tmp_path):
    frame = pd.DataFrame(ROWS)
    table(tmp_path / "a.csv")
    table(tmp_path / "b.tsv", sep="\t")
    table(tmp_path / "c.csv", sep=";", encoding="latin-1")
    frame.to_json(tmp_path / "d.jsonl", orient="records", lines=True)
    frame.to_parquet(tmp_path / "e.parquet")
    options = [{}, {}, {"separator": ";", "encoding": "latin-1"}, {}, {}]
    tasks = [
        TASKS["table"](train=str(path), name="films", **more)
        for path, more in zip(sorted(tmp_path.iterdir()), options, strict=True)
    ]
    first, *others = [task.load_checked(None, tmp_path) for task in tasks]
    assert all(other.digest() == first.digest() for other in others) and len({t.fingerprint(None) for t in tasks}) == 1
    known = {row["review"]: row["stars"] for row in ROWS}
    seen = [text for split in (first.train, first.selection, first.report) for text in split.inputs["text"]]
    assert sorted(seen) == sorted(known)
    for split in (first.train, first.selection, first.report):
        assert ["ab"[label] for label in split.labels] == [known[text] for text in split.inputs["text"]]


def test_splits_are_drawn_with_the_seed_shuffled_and_keep_the_shares_of_classes(tmp_path):
    rows = [{"text": f"text {i}", "label": "rare" if i < 20 else "usual"} for i in range(100)]
    path = table(tmp_path / "sorted.csv", rows)
    first, again, other = (loaded(path, data_seed=seed) for seed in (0, 0, 1))
    assert first.digest() == again.digest() != other.digest()
    for split, size in ((first.train, 60), (first.selection, 20), (first.report, 20)):
        assert len(split) == size and np.bincount(split.labels).tolist() == [size // 5, 4 * size // 5]
        assert (np.diff(split.labels) < 0).any()  # in no order of the file


def test_a_report_of_its_own_is_reported_whole_and_shared_rows_are_said(tmp_path):
    train, report = table(tmp_path / "train.csv", ROWS[:30]), table(tmp_path / "test.csv", ROWS[25:])
    with pytest.warns(UserWarning, match="reported rows are among those (to train on|for choices) too: row ") as said:
        splits = loaded(train, report=str(report), selection=str(report))
    first, second = map(int, re.findall(r"row (\d+) of t", str(said[0].message)))
    assert ROWS[25:][first - 1] == ROWS[:30][second - 1]
    assert len(splits.train) == 30 and len(splits.report) == len(splits.selection) == 12
    assert [str(one.message).split(" too:")[0] for one in said] == [
        "5 of the 12 reported rows are among those to train on",
        "12 of the 12 reported rows are among those for choices",
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded(table(tmp_path / "alone.csv", ROWS))


def test_rows_that_differ_in_upper_case_or_blanks_alone_are_shared(tmp_path):
    train = table(tmp_path / "train.csv")
    near = [{**ROWS[3], "review": " FILM  3 was bad"}, {**ROWS[4], "review": "film 4 was fine"}]
    says = r"^1 of the 2 reported rows are among .*: row 1 of near\.csv is row 4 of train\.csv \(upper case and blanks"
    with pytest.warns(UserWarning, match=says):
        loaded(train, report=str(table(tmp_path / "near.csv", near)))


def test_labels_are_read_once_for_all_jobs_until_the_file_changes(tmp_path, monkeypatch):
    path, found, classes = table(tmp_path / "films.csv"), [], cells.classes
    monkeypatch.setattr(cells, "classes", lambda *cells_of: found.append(classes(*cells_of)) or found[-1])
    for _ in range(3):
        task = TASKS["table"](train=str(path)).for_classifier(["b", "a"], None)
        assert task.label_names() == ("b", "a") and task.fingerprint(None) and task.load_checked(None, tmp_path)
    assert len(found) == 1
    table(path, ROWS[:30])
    assert len(TASKS["table"](train=str(path)).load(None, tmp_path).train) == 18
    assert [len(labels) for labels in found] == [37, 30]


def test_the_identity_follows_what_is_read_and_no_path(tmp_path):
    path = table(tmp_path / "films.csv")
    (tmp_path / "elsewhere").mkdir()
    moved = table(tmp_path / "elsewhere" / "films.csv", [{**row, "unread": 1} for row in ROWS])
    task = TASKS["table"](train=str(path))
    same = [
        TASKS["table"](train=str(moved), text="review", label="stars"),
        TASKS["table"](train=str(path), max_examples=3),
    ]
    assert {one.fingerprint(None) for one in same} == {task.fingerprint(None)} and task.name == "films"
    others = [TASKS["table"](train=str(path), metric="matthews"), TASKS["table"](train=str(path), data_seed=1)]
    assert len({task.fingerprint(None), *(one.fingerprint(None) for one in others)}) == 3
    before = task.fingerprint(None)
    table(path, text_with(review="another text"))
    assert task.fingerprint(None) != before


def test_json_lines_and_parquet_are_checked_row_by_row(tmp_path):
    path = tmp_path / "films.jsonl"
    lines = [json.dumps({"text": f"a {i}", "label": i % 2}) for i in range(9)]
    for bad, says in (
        ("{", r"^films\.jsonl, line 10: it is no JSON"),
        ("[1]", r"^films\.jsonl, line 10: \[1\] is no object"),
        ('{"text": "a"}', r"^films\.jsonl, row 10, column 'label': there is no label"),
        ('{"text": 5, "label": 1}', r"row 10, column 'text': 5 is no text"),
        ('{"text": "a", "label": [1]}', r"row 10, column 'label': \[1\] is no label; for several give task\.kind"),
        ('{"text": "a", "label": 1%s}' % ("0" * 400), r"row 10, column 'label': '?10000.* is no class"),
        ('{"text": "a", "label": Infinity}', r"row 10, column 'label': inf is no class"),
        ("[" * 100_000, r"^films\.jsonl, line 10: it is no JSON \(maximum recursion depth"),
        ('{"text": "\\ud83d", "label": 1}', r"^films\.jsonl, line 10: it is no JSON \('utf-8' codec can't encode"),
    ):  # fmt: skip
        path.write_text("\n".join([*lines, bad, ""]))
        with pytest.raises(HiesError, match=says):
            loaded(path)
    frame = pd.DataFrame({"text": pd.array(["a", pd.NA, "c"], "string"), "label": [[0], [1], [0]]})
    frame.to_parquet(tmp_path / "nullable.parquet")
    with pytest.raises(HiesError, match=r"^nullable\.parquet, row 1, column 'label': .* is no label; for several"):
        loaded(tmp_path / "nullable.parquet")
    frame.assign(label=[0, 1, 0]).to_parquet(tmp_path / "nullable.parquet")
    with pytest.raises(HiesError, match=r"^nullable\.parquet, row 2, column 'text': there is no text"):
        loaded(tmp_path / "nullable.parquet")
    damaged = tmp_path / "films.parquet"
    damaged.write_bytes(b"PAR1")
    with pytest.raises(HiesError, match=r"^films\.parquet cannot be read as parquet"):
        loaded(damaged)


def test_a_data_set_of_the_hub_by_owner_name_and_split(tmp_path):
    folder = tmp_path / "me" / "films"
    folder.mkdir(parents=True)
    for split in ("train", "test"):
        pd.DataFrame(ROWS).to_parquet(folder / f"{split}-00000-of-00001.parquet")
    task = TASKS["table"](train="me/films", report="me/films:test")
    with pytest.warns(UserWarning, match="among those (to train on|for choices)"):
        splits = task.load_checked(tmp_path, tmp_path)
    assert task.name == "films" and len(splits.report) == 37 and len(splits.train) + len(splits.selection) == 37
    with pytest.raises(HiesError, match=r"^task\.report is 'me/films:dev'; it has the splits train, test, as in me"):
        TASKS["table"](train="me/films", report="me/films:dev").load(tmp_path, tmp_path)
