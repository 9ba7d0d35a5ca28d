"""Image data sets from a folder of the Hub's layout, and how their files become a model's inputs."""

import hashlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from picture_copy import CLASSES, file_of, names_of, write_copy, write_part
from PIL import Image
from transformers import ViTConfig, ViTForImageClassification, ViTModel
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from hies.errors import HiesError
from hies.evaluation.evaluator import Evaluator
from hies.evaluation.label_order import find_label_order
from hies.evaluation.metrics import METRICS
from hies.evaluation.models import Model
from hies.evaluation.networks import build
from hies.tasks import TASKS, classifier
from hies.tasks.classifier import ImageFiles, encode, predict
from hies.tasks.images import CIFAR10, CIFAR100, IMAGE_TASKS, FashionMNIST, ImageNet1k, _read_both
from hies.tasks.splits import Split
from hies.training import Finetuning

TINY = {"patch_size": 4, "hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 16}


@pytest.fixture(autouse=True)
def fresh():
    _read_both.cache_clear()


def label_in(file):
    return round(Image.open(io.BytesIO(file)).convert("RGB").getpixel((0, 0))[0] / 10)


def parts(splits):
    return [splits.train, splits.selection, splits.report]


@pytest.mark.parametrize("kind", IMAGE_TASKS, ids=lambda kind: kind.name)
def test_the_three_splits_share_no_example_lose_none_and_keep_their_labels(kind, tmp_path):
    splits = kind().load(write_copy(tmp_path, kind), tmp_path)
    assert [len(part) for part in parts(splits)] == [54, 6, 23]
    files = [part.inputs["image"] for part in parts(splits)]
    assert len({file for part in files for file in part}) == 60 + 23
    assert {*files[0], *files[1]}.isdisjoint(files[2])
    for part in parts(splits):
        assert part.labels.dtype == np.int64
        assert part.labels.tolist() == [label_in(file) for file in part.inputs["image"]]


def test_the_tasks_are_known_by_name_and_declare_what_their_data_sets_have():
    sizes = {"cifar10": 10, "cifar100": 100, "food101": 101, "fashion_mnist": 10, "imagenet1k": 1000}
    assert {kind.name: kind.classes for kind in IMAGE_TASKS} == sizes
    assert all(TASKS[kind.name] is kind and METRICS[kind.metric] is METRICS["accuracy"] for kind in IMAGE_TASKS)


def test_classes_are_called_as_the_files_call_them_or_else_by_their_numbers(tmp_path):
    numbers = tuple(map(str, range(1000)))
    for kind in IMAGE_TASKS:
        names = numbers if kind is ImageNet1k else names_of(kind)
        assert kind().label_names(write_copy(tmp_path / "named", kind)) == names
    for names in (None, names_of(CIFAR10)[:9]):
        write_part(tmp_path / "other", CIFAR10, "train", [file_of(0)], [0], names)
        assert CIFAR10().label_names(tmp_path / "other") == numbers[:10]


def test_what_is_reported_first_is_drawn_even_from_a_sorted_data_set(tmp_path):
    labels = np.repeat(np.arange(CLASSES), 20)
    for start, split in ((0, "train"), (100, "test")):
        files = [file_of(start + i, label) for i, label in enumerate(labels)]
        write_part(tmp_path, CIFAR10, split, files, labels)
    first, again, other = (CIFAR10(data_seed=seed).load(tmp_path, tmp_path) for seed in (0, 0, 1))
    assert {*first.report.labels[:12].tolist()} == {0, 1, 2}
    for ours, same, different in zip(parts(first), parts(again), parts(other), strict=True):
        assert ours.inputs["image"] == same.inputs["image"] != different.inputs["image"]
    assert {*first.train.inputs["image"], *first.selection.inputs["image"]} == {
        *other.train.inputs["image"],
        *other.selection.inputs["image"],
    }


def test_of_imagenet_two_training_files_are_read(tmp_path):
    for part in range(4):
        files = [file_of(100 * part + i) for i in range(10)]
        write_part(tmp_path, ImageNet1k, "train", files, [part] * 10, part=f"0000{part}-of-00294")
    write_part(tmp_path, ImageNet1k, "validation", [file_of(999)], [999], part="00000-of-00014")
    splits = ImageNet1k().load(tmp_path, tmp_path)
    assert sorted([*splits.train.labels, *splits.selection.labels]) == [0] * 10 + [1] * 10
    assert splits.report.labels.tolist() == [999]


def test_the_identity_follows_the_content_and_the_draw_and_not_the_place(tmp_path):
    here = CIFAR10().identity(write_copy(tmp_path / "a", CIFAR10))
    assert CIFAR10(max_examples=5).identity(write_copy(tmp_path / "b", CIFAR10)) == here
    others = [
        CIFAR10().identity(write_copy(tmp_path / "c", CIFAR10, mark=7)),
        CIFAR10().identity(write_copy(tmp_path / "d", CIFAR10, train=61)),
        CIFAR10().identity(write_copy(tmp_path / "e", CIFAR10, report=22)),
        CIFAR10(data_seed=1).identity(tmp_path / "a"),
    ]
    assert len({here, *others}) == 5


def test_a_data_set_that_is_not_here_or_is_another_one_is_named(tmp_path, monkeypatch):
    with pytest.raises(HiesError, match=r"uoft-cs/cifar10 .*data_root.*HIES_DATA"):
        CIFAR10().load(tmp_path, tmp_path)
    good = [file_of(i) for i in range(3)]
    cases = {
        "img, text, but label": {"columns": ("img", "text")},
        "Row 1 .*no image": {"files": [good[0], None, good[2]]},
        "Row 1 of the split 'train' .*the label 10, but .*0 to 9;": {"labels": [0, 10, 1]},
        "Row 2 of the split 'train' .*the label -1,": {"labels": [0, 1, -1]},
        "names its classes second, first, .*'test' has cifar10_thing_0,": {
            "names": ["second", "first", *names_of(CIFAR10)[2:]]
        },
    }
    for place, (words, case) in enumerate(cases.items()):
        root = write_copy(tmp_path / str(place), CIFAR10)
        write_part(root, CIFAR10, "train", **{"files": good, "labels": [0, 1, 2], **case})
        with pytest.raises(HiesError, match=words):
            CIFAR10().load(root, tmp_path)
    with pytest.raises(HiesError, match=r"data_seed is -1"):
        CIFAR10(data_seed=-1)


FILES = [file_of(i, i % CLASSES) for i in range(11)]
LABELS = torch.arange(11) % CLASSES


def by_hand(file, size=None):
    """The definition: RGB, bilinear, 0..255 to -1..1, channels first."""
    picture = Image.open(io.BytesIO(file)).convert("RGB")
    picture = picture.resize(size, Image.Resampling.BILINEAR) if size else picture
    return (np.asarray(picture, dtype=np.float64).transpose(2, 0, 1) / 255 - 0.5) / 0.5


def test_without_an_image_processor_pixels_are_scaled_and_brought_to_the_size_of_the_architecture():
    files = [file_of(i, size=(8, 8) if i % 2 else (5, 7)) for i in range(4)]
    for index, size in ((1, None), (0, 6), (1, 6), (3, 8)):
        pixels = ImageFiles(files, LABELS, None, size)[index]["pixel_values"] if size else None
        pixels = ImageFiles(files[1::2], LABELS, None)[0]["pixel_values"] if size is None else pixels
        assert pixels.dtype == torch.float32 and pixels.is_contiguous()
        np.testing.assert_allclose(pixels, by_hand(files[index], size and (size, size)), atol=1e-6)
    processor = ViTImageProcessorPil(size={"height": 6, "width": 6})
    ours, theirs = ImageFiles(files, LABELS, None, 6), ImageFiles(files, LABELS, processor)
    for index in range(4):
        np.testing.assert_allclose(ours[index]["pixel_values"], theirs[index]["pixel_values"], atol=1e-6)


def test_images_of_several_sizes_without_a_size_are_named():
    pictures = ImageFiles([FILES[0], file_of(1, size=(5, 7))], LABELS, None)
    pictures[0]
    with pytest.raises(HiesError, match=r"Image 1 of 2 has 5 x 7 pixels and image 0 has 8 x 8;.*image_size"):
        pictures[1]


def test_width_and_height_are_not_exchanged():
    file = file_of(0, size=(5, 7))
    assert ImageFiles([file], LABELS[:1], None)[0]["pixel_values"].shape == (3, 7, 5)
    wide = ViTImageProcessorPil(size={"height": 4, "width": 6}, image_mean=[0, 0, 0], image_std=[1, 1, 1])
    pixels = ImageFiles([file], LABELS[:1], wide)[0]["pixel_values"]
    np.testing.assert_allclose(pixels, by_hand(file, (6, 4)) / 2 + 0.5, atol=1e-6)


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "LA", "CMYK"])
def test_every_kind_of_image_becomes_rgb(mode):
    kind = "JPEG" if mode == "CMYK" else "PNG"
    for processor in (None, ViTImageProcessorPil(size={"height": 8, "width": 8})):
        pixels = ImageFiles([file_of(0, 3, mode, kind=kind)], LABELS[:1], processor)[0]["pixel_values"]
        assert pixels.shape == (3, 8, 8) and pixels.abs().max() <= 1 and pixels.std() > 0.1
        if mode in ("L", "1", "LA"):
            assert torch.equal(pixels[0], pixels[1]) and torch.equal(pixels[0], pixels[2])


@pytest.mark.parametrize("broken", [b"", b"no picture", FILES[1][:60], FILES[1][:-30], file_of(0, kind="JPEG")[:200]])
def test_a_broken_file_is_named_in_one_sentence_when_it_is_asked_for(broken):
    encoded = encode(Split({"image": [*FILES[:2], broken]}, LABELS[:3].numpy()), None, 128)
    encoded.batch([0, 1])
    with pytest.raises(HiesError, match=r"Image 2 of 3 \(\d+ bytes, SHA-256 \w{12}\) cannot be decoded;") as found:
        encoded.batch([1, 2])
    assert hashlib.sha256(broken).hexdigest()[:12] in str(found.value) and str(found.value).count(". ") == 0


@pytest.mark.parametrize("kept", [True, False])
def test_an_image_is_decoded_when_it_is_asked_for_and_kept_if_all_of_them_fit(kept, monkeypatch):
    opened, original = [], Image.open
    monkeypatch.setattr(classifier.Image, "open", lambda stream: opened.append(stream.getvalue()) or original(stream))
    size = 11 * 3 * 8 * 8 * 4
    monkeypatch.setattr(classifier, "KEPT", size if kept else size - 1)
    encoded = encode(Split({"image": FILES}, LABELS.numpy()), ViTImageProcessorPil(do_resize=False), 128)
    assert len(encoded) == 11 and encoded.length(5) == 1 and not opened
    first = encoded.batch([4])
    assert opened == [FILES[4]]
    second = encoded.batch(np.array([4, 7]))
    assert opened == ([FILES[4], FILES[7]] if kept else [FILES[4], FILES[4], FILES[7]])
    assert torch.equal(first["pixel_values"][0], second["pixel_values"][0]) and second["labels"].tolist() == [1, 1]


def tiny(**options):
    torch.manual_seed(0)
    model = ViTForImageClassification(ViTConfig(**TINY, image_size=8, initializer_range=0.5, **options))
    return model.eval()


def test_answers_do_not_depend_on_the_batch_size():
    model = tiny(num_labels=5)
    inputs = torch.tensor(np.stack([by_hand(file) for file in FILES]), dtype=torch.float32)
    with torch.no_grad():
        expected = model(pixel_values=inputs).logits.argmax(1).numpy()
    assert len({*expected}) > 1
    for processor in (None, ViTImageProcessorPil(size={"height": 8, "width": 8})):
        for size in (1, 4, 11, 99):
            encoded = encode(Split({"image": FILES}, LABELS.numpy()), processor, 128)
            assert np.array_equal(predict(model, encoded, size)["predictions"], expected)


def bench_of(model, root, cache, task=None):
    return Evaluator(model, task or CIFAR10(), root, cache, torch.device("cpu"))


def test_a_checkpoint_is_used_with_its_own_image_processor_and_its_outputs_are_brought_into_order(tmp_path):
    root, folder = write_copy(tmp_path, CIFAR10), tmp_path / "checkpoint"
    order = np.random.default_rng(1).permutation(10).tolist()  # label -> output
    names = {output: names_of(CIFAR10)[label].upper() for label, output in enumerate(order)}
    model = tiny(id2label=names, label2id={name: i for i, name in names.items()})
    model.save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 8, "width": 8}, image_mean=[0.1] * 3, image_std=[0.7] * 3).save_pretrained(
        folder
    )
    bench = bench_of(Model(modality="image", checkpoint={"cifar10": str(folder)}), root, tmp_path)
    files = bench.splits.report.inputs["image"]
    pixels = np.stack([((by_hand(file) + 1) / 2 - 0.1) / 0.7 for file in files])
    with torch.no_grad():
        outputs = model(pixel_values=torch.tensor(pixels, dtype=torch.float32)).logits.argmax(1).tolist()
    assert len({*outputs}) > 1 and bench.label_order == order
    assert bench.predictions({}).tolist() == [order.index(output) for output in outputs]
    assert bench.encoded("report").batch([0])["labels"].tolist() == [order[bench.splits.report.labels[0]]]


def test_pretrained_weights_are_fine_tuned_with_their_image_processor(tmp_path):
    root, folder = write_copy(tmp_path, FashionMNIST), tmp_path / "weights"
    torch.manual_seed(0)
    ViTModel(ViTConfig(**TINY, image_size=12)).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 12, "width": 12}).save_pretrained(folder)
    settings = Finetuning(epochs=1, batch_size=16)
    model = Model(name="small", modality="image", source=str(folder), finetune=settings)
    bench = bench_of(model, root, tmp_path / "cache", FashionMNIST())
    assert bench.encoded("report").batch([0, 1])["pixel_values"].shape == (2, 3, 12, 12)
    made = Path(bench.checkpoint)
    assert {"config.json", "model.safetensors", "preprocessor_config.json"} <= {path.name for path in made.iterdir()}
    assert bench.network.config.id2label == dict(enumerate(names_of(FashionMNIST)))
    again = bench_of(Model(modality="image", checkpoint={"fashion_mnist": str(made)}), root, tmp_path, FashionMNIST())
    assert again.label_order is None and again.predictions({}).tolist() == bench.predictions({}).tolist()


def plain(number, label):
    """An image in one of three greys, with some noise."""
    noise = np.random.default_rng(number).integers(-9, 10, (8, 8, 3))
    stream = io.BytesIO()
    Image.fromarray((20 + 100 * label + noise).astype(np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def test_an_architecture_is_trained_on_the_files_as_they_are(tmp_path):
    """Attention may be computed another way while it is trained; what is scored is the usual one."""
    labels = np.arange(60) % CLASSES
    for start, split in ((0, "train"), (100, "test")):
        write_part(tmp_path, CIFAR10, split, [plain(start + i, label) for i, label in enumerate(labels)], labels)
    architecture = {"model_type": "vit", "image_size": 8, "attn_implementation": "eager", **TINY}
    settings = Finetuning(epochs=6, learning_rate=2e-2, batch_size=8)
    model = Model(name="small", modality="image", architecture=architecture, finetune=settings, precision="bfloat16")
    bench = bench_of(model, tmp_path, tmp_path / "cache")
    assert bench.processor is None and len(bench.prunable_sites()) == 2
    assert bench.quality({}, "report") > 80  # of images that it was not trained on; chance is 33 %
    assert bench.network.config._attn_implementation == "sdpa"
    assert sum(bench.statistics(frozenset({"his"}), 0, 8).heads.values()) == 6


def test_weights_with_a_classifier_of_their_own_are_fine_tuned_for_other_classes(tmp_path):
    root, folder = write_copy(tmp_path, CIFAR10), tmp_path / "weights"
    weights = tiny(num_labels=7)
    weights.save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 8, "width": 8}).save_pretrained(folder)
    model = Model(modality="image", source=str(folder), finetune=Finetuning(epochs=1, batch_size=16))
    bench = bench_of(model, root, tmp_path / "cache")
    assert bench.network.config.num_labels == 10 and bench.predictions({}).shape == (23,)
    start = build(model, CIFAR10(), root)
    assert torch.equal(start.vit.embeddings.cls_token, weights.vit.embeddings.cls_token)


def test_weights_that_do_not_fit_their_configuration_are_refused_and_not_drawn(tmp_path):
    tiny(num_labels=7).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "intermediate_size": config["intermediate_size"] + 1}))
    with pytest.raises(HiesError, match=r"'vit\..*' in .* do not fit its configuration"):
        build(Model(modality="image", source=str(tmp_path)), CIFAR10(), write_copy(tmp_path / "data", CIFAR10))


def test_the_outputs_of_an_imagenet_checkpoint_stand_in_the_order_of_the_numbers(tmp_path):
    root, folder = write_copy(tmp_path, ImageNet1k), tmp_path / "checkpoint"
    tiny(id2label={i: "crane" if i in (134, 517) else f"thing {i}" for i in range(1000)}).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 8, "width": 8}).save_pretrained(folder)
    bench = bench_of(Model(modality="image", checkpoint={"imagenet1k": str(folder)}), root, tmp_path, ImageNet1k())
    assert bench.label_order is None and bench.predictions({}).max() > 10


def test_images_are_brought_to_the_size_that_an_architecture_names(tmp_path):
    root = write_copy(tmp_path, CIFAR10)
    model = Model(name="small", modality="image", architecture={"model_type": "vit", "image_size": 12, **TINY})
    bench = bench_of(model, root, tmp_path / "cache")
    assert bench.encoded("report").batch([0, 3])["pixel_values"].shape == (2, 3, 12, 12)


def test_names_of_outputs_may_be_written_with_spaces(tmp_path):
    root = write_copy(tmp_path, CIFAR100)
    network = ViTForImageClassification(ViTConfig(**TINY, image_size=8, num_labels=100))
    network.config.id2label = {i: name.replace("_", " ").title() for i, name in enumerate(reversed(names_of(CIFAR100)))}
    answers = np.arange(100)
    order = find_label_order(CIFAR100(), network, lambda: answers[::-1], answers, None, root)
    assert order == list(range(99, -1, -1))
