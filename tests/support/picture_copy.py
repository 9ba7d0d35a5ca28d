"""Made-up image data sets as files in the layout of the Hub, for tests of what reads them."""

import io

import datasets
import numpy as np
from PIL import Image

from hies.tasks.images import FashionMNIST, ImageNet1k

FOLDERS = {"cifar10": "plain_text", "cifar100": "cifar100", "fashion_mnist": "fashion_mnist"}
CLASSES = 3  # that occur; where a data set has more, the others do not


def names_of(kind):
    """What a made-up copy calls its classes."""
    return tuple(f"{kind.name}_thing_{i}" for i in range(kind.classes))


def file_of(number, label=0, mode="RGB", size=(8, 8), kind="PNG"):
    """A random image; its number makes it different from all others, its first pixel says its label."""
    pixels = np.random.default_rng(number).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    pixels[0, 0] = 10 * label
    stream = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(stream, kind)
    return stream.getvalue()


def write_part(root, kind, split, files, labels, names=None, part="00000-of-00001", columns=None):
    """One parquet file as the Hub has it; `names` of the classes are written into it where they are given."""
    label = datasets.ClassLabel(names=list(names)) if names else datasets.Value("int64")
    image, target = columns or (kind.image, kind.label)
    data = {image: [file and {"bytes": file, "path": None} for file in files], target: list(labels)}
    made = datasets.Dataset.from_dict(data, datasets.Features({image: datasets.Image(), target: label}))
    folder = root / kind.repository / FOLDERS.get(kind.name, "data")
    folder.mkdir(parents=True, exist_ok=True)
    made.to_parquet(str(folder / f"{split}-{part}.parquet"))


def write_copy(root, kind, train=60, report=23, mark=0):
    """A made-up copy of a data set; `mark` makes another one of it."""
    mode = "L" if kind is FashionMNIST else "RGB"
    for place, (split, count) in enumerate([("train", train), (kind.reported, report)]):
        labels = np.arange(count) % CLASSES
        files = [file_of(1000 * (place + mark) + i, label, mode) for i, label in enumerate(labels)]
        write_part(root, kind, split, files, labels, None if kind is ImageNet1k else names_of(kind))
    return root
