"""The digits task: the whole of scikit-learn's set, divided once and for all."""

import numpy as np
import pytest
from omegaconf import OmegaConf

from hies.errors import HiesError
from hies.tasks.embedded.digits import Digits


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    return Digits().load(None, tmp_path_factory.mktemp("cache"))


def parts(splits):
    return [splits.train, splits.selection, splits.report]


def test_sizes_types_and_range(splits):
    assert [len(part) for part in parts(splits)] == [1000, 297, 500]
    for part in parts(splits):
        pixels = part.inputs["pixel_values"]
        assert pixels.shape == (len(part), 1, 8, 8) and pixels.dtype == np.float32
        assert (pixels.min(), pixels.max()) == (-1, 1)
        assert part.labels.dtype == np.int64 and set(part.labels.tolist()) == set(range(10))


def test_every_image_is_in_exactly_one_split(splits):
    from sklearn.datasets import load_digits

    images = np.concatenate([part.inputs["pixel_values"] for part in parts(splits)]).reshape(1797, 64)
    original = load_digits().data / 8 - 1
    assert sorted(map(bytes, images)) == sorted(map(bytes, original.astype(np.float32)))
    assert len(set(map(bytes, images))) == 1797


def test_an_image_keeps_its_label(splits):
    from sklearn.datasets import load_digits

    data = load_digits()
    label_of = {bytes((pixels / 8 - 1).astype(np.float32)): y for pixels, y in zip(data.data, data.target, strict=True)}
    for part in parts(splits):
        assert [label_of[bytes(image)] for image in part.inputs["pixel_values"]] == part.labels.tolist()


def test_every_split_has_its_share_of_every_digit(splits):
    whole = np.bincount(np.concatenate([part.labels for part in parts(splits)])) / 1797
    for part in parts(splits):
        assert np.abs(np.bincount(part.labels) - whole * len(part)).max() <= 1.5


def test_the_seed_alone_decides_the_draw(splits, tmp_path):
    again, other = (Digits(data_seed=seed).load(None, tmp_path) for seed in (0, 1))
    for ours, same, different in zip(parts(splits), parts(again), parts(other), strict=True):
        assert np.array_equal(ours.inputs["pixel_values"], same.inputs["pixel_values"])
        assert not np.array_equal(ours.inputs["pixel_values"], different.inputs["pixel_values"])
    assert Digits().identity(None) == Digits(max_examples=7).identity(None) != Digits(data_seed=1).identity(None)


def test_the_splits_are_whole_whatever_is_reported(splits, tmp_path):
    cut = Digits(max_examples=101).load(None, tmp_path)
    assert np.array_equal(cut.report.labels, splits.report.labels) and len(cut.report) == 500


def test_a_wrong_seed_is_named():
    with pytest.raises(HiesError, match=r"data_seed is -1"):
        Digits(data_seed=-1)


def test_the_knobs_make_a_configuration():
    task = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Digits), {"data_seed": 3}))
    assert task == Digits(data_seed=3) and task.label_names() == tuple("0123456789")
