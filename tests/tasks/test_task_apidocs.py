"""apidocs: sentences without markup and names, from files that are never imported, in splits that do not leak."""

import pytest

from hies.errors import HiesError
from hies.tasks.embedded.apidocs import ApiDocs, divide_sentences
from hies.tasks.embedded.packages import LIBRARY_NAMES, Excerpt, clean, key_of, sentences


@pytest.mark.parametrize(
    "raw, expected",
    [
        ("Return a :class:`~pandas.Index` of ``labels``.", "Return a Index of labels."),
        ("See [the guide](https://x.org/a) for *more*.", "See the guide for more."),
        ("A torch.nn.Linear on top of PyTorch.", "A nn.Linear on top of"),
        ("Like numpy's own, via `np.sum`.", "Like 's own, via sum."),
        ("Keep in_side underscores and\n    wrap lines.", "Keep in_side underscores and wrap lines."),
    ],
)
def test_markup_and_names_go(raw, expected):
    assert clean(raw) == expected


@pytest.fixture
def package(tmp_path):
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "a.py").write_text('"""A sentence that stands in a folder of tests."""')
    (tmp_path / "broken.py").write_text("def (:")
    (tmp_path / "b.py").write_text(
        'raise RuntimeError("imported")\n'
        'class A:\n    """Hold a value. And more text."""\n'
        '    def f(self):\n        """Return 3 values from torch."""\n'
        'async def g():\n    """no capital letter, so no sentence."""\n'
    )
    return tmp_path


def test_sentences_are_read_and_nothing_is_imported(package):
    found = sentences(package)
    assert [(s.text, s.file) for s in found] == [("Hold a value.", "b.py"), ("Return 3 values from", "b.py")]
    assert key_of(found[1].text) == "return values from"


def made(library, files=60, each=4):
    words = ["alpha", "beta", "gamma", "delta"]
    return [
        Excerpt(f"The {library} {chr(97 + n % 26) * 3}{chr(97 + n // 26) * 3} does {word} things.", f"{n}.py")
        for n in range(files)
        for word in words[:each]
    ]


def test_a_file_goes_into_one_split_whole_and_nothing_occurs_twice():
    found = {"one": made("one") * 2, "two": made("two")}
    pools = divide_sentences(found, 5)
    file_of = {s.text: (library, s.file) for library, group in found.items() for s in group}
    files = {split: {file_of[t] for texts in pools[split].values() for t in texts} for split in pools}
    assert all(files.values())
    assert not files["train"] & files["report"] and not files["train"] & files["selection"]
    assert not files["selection"] & files["report"]
    everything = [t for split in pools.values() for texts in split.values() for t in texts]
    assert len(everything) == len(set(everything)) == 480


def test_the_order_of_reading_does_not_matter():
    found = {"one": made("one"), "two": made("two")}
    assert divide_sentences(found, 5) == divide_sentences({name: group[::-1] for name, group in found.items()}, 5)


def test_what_two_libraries_share_and_what_is_short_is_dropped():
    shared = Excerpt("Return the value of this.", "x.py")
    short = Excerpt("Return the value.", "x.py")
    pools = divide_sentences({"one": [shared, short], "two": [shared]}, 5)
    assert all(not texts for split in pools.values() for texts in split.values())


def test_the_installed_libraries_give_balanced_splits_without_their_names(tmp_path):
    libraries = ("accelerate", "huggingface_hub")  # small, and full of names
    task = ApiDocs(libraries=libraries, train_per_class=50, selection_per_class=10, report_per_class=20)
    splits = task.load(None, tmp_path)
    sizes = [len(split) for split in (splits.train, splits.selection, splits.report)]
    assert sizes == [100, 20, 40]
    for split in (splits.train, splits.selection, splits.report):
        assert split.labels[:4].tolist() == [0, 1, 0, 1] and split.labels.mean() == 0.5
        assert not any(LIBRARY_NAMES.search(text) for text in split.inputs["text"])
        assert min(len(text.split()) for text in split.inputs["text"]) >= 5
    again = task.load(None, tmp_path)  # from the cache
    assert again.report.inputs == splits.report.inputs


def test_the_identity_follows_the_knobs_that_change_the_data():
    assert ApiDocs().identity(None) == ApiDocs(max_examples=3).identity(None)
    assert ApiDocs().identity(None) != ApiDocs(min_words=6).identity(None)
    assert ApiDocs().identity(None) != ApiDocs(train_per_class=7).identity(None)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"libraries": ("numpy",)}, "at least 2"),
        ({"min_words": 0}, "min_words"),
        ({"report_per_class": 0}, "at least 1"),
    ],
)
def test_knobs_that_cannot_be_are_refused(options, words):
    with pytest.raises(HiesError, match=words):
        ApiDocs(**options)


def test_a_library_that_is_not_installed_is_named(tmp_path):
    with pytest.raises(HiesError, match="nosuchlib"):
        ApiDocs(libraries=("numpy", "nosuchlib")).identity(None)
