"""Image classification with data sets of the Hugging Face Hub, or local copies of them.

One split is reported; of the training split some examples, drawn once, are set aside for selection. Images stay the
PNG or JPEG files that they are (`hies.tasks.classifier` decodes them when they are asked for), but all files of the
splits in use are held in memory: 0.1 GB for CIFAR-10, CIFAR-100 or Fashion-MNIST, 5 GB for Food-101, 7.5 GB for
ImageNet-1k, of whose 294 training files two are read and the others not even downloaded.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

import numpy as np

from hies.errors import HiesError
from hies.storage import digest
from hies.tasks import hub
from hies.tasks.base import SET_ASIDE, ClassifierTask, declare
from hies.tasks.checks import class_labels
from hies.tasks.splits import Split, Splits


@dataclass(frozen=True)
class ImageTask(ClassifierTask):
    """One data set; a subclass declares its columns and classes, and where its splits come from.

    Attributes:
        repository: its name on the Hub.
        image: the column of the images.
        label: the column of the class indices.
        classes: the number of classes.
        trained: the split that is trained on, by the beginning of its files' names.
        reported: the split that is reported, likewise.
        data_seed: decides which training examples are set aside, and the order of the reported ones. They are shuffled
            because `max_examples` takes the first, and some data sets are sorted by class.
    """

    modality: ClassVar[str] = "image"
    repository: ClassVar[str]
    image: ClassVar[str] = "image"
    label: ClassVar[str] = "label"
    classes: ClassVar[int]
    trained: ClassVar[str] = "train"
    reported: ClassVar[str] = "test"

    data_seed: int = 0

    def label_names(self, data_root: Path | None = None) -> tuple[str, ...]:
        """Returns the classes as the data set names them; their numbers where it does not, or they go by these."""
        names = () if self.numbered else hub.class_names(self.repository, self.trained, self.label, data_root)
        return names if len(names) == self.classes else tuple(map(str, range(self.classes)))

    def identity(self, data_root: Path | None) -> str:
        """Returns a digest of the files of both splits and of how they are divided."""
        files = [hub.split_identity(self.repository, name, data_root) for name in (self.trained, self.reported)]
        return digest([files, SET_ASIDE, self.data_seed])

    def load(self, data_root: Path | None, cache_dir: Path) -> Splits:
        """Returns all labelled examples, divided into the three splits."""
        train, report = _read_both(type(self), data_root)
        generator = np.random.default_rng(self.data_seed)
        drawn, shuffled = generator.permutation(len(train)), generator.permutation(len(report))
        held_out = min(SET_ASIDE, len(train) // 10)
        selection = train.take(np.sort(drawn[:held_out]))
        return Splits(train.take(np.sort(drawn[held_out:])), selection, report.take(shuffled))


@lru_cache(maxsize=1)
def _read_both(kind: type[ImageTask], data_root: Path | None) -> tuple[Split, Split]:
    """Returns what is trained on and what is reported, whole; the last data set alone stays in memory."""
    splits = (kind.trained, kind.reported)
    train, report = (_read(kind, name, data_root) for name in splits)
    trained, reported = (hub.class_names(kind.repository, name, kind.label, data_root) for name in splits)
    if trained and reported and trained != reported and not kind.numbered:
        raise HiesError(
            f"The split {kind.trained!r} of {kind.repository} names its classes {', '.join(trained[:3])}, ..., but "
            f"{kind.reported!r} has {', '.join(reported[:3])}, ... in another order or under other names; give a copy "
            "in the layout of the Hub."
        )
    return train, report


def _read(kind: type[ImageTask], name: str, data_root: Path | None) -> Split:
    rows = hub.read_split(kind.repository, name, (kind.image, kind.label), data_root)
    where = f"the split {name!r} of {kind.repository}"
    files = hub.image_files(rows[kind.image], where)
    return Split({"image": files}, class_labels(rows[kind.label].to_numpy(), kind.classes, where))


CIFAR10 = declare(
    ImageTask, "cifar10", "Which of ten things does this image of 32 x 32 pixels show?",
    repository="uoft-cs/cifar10", image="img", classes=10,
)  # fmt: skip
CIFAR100 = declare(
    ImageTask, "cifar100", "Which of a hundred things does this image of 32 x 32 pixels show? The fine labels.",
    repository="uoft-cs/cifar100", image="img", label="fine_label", classes=100,
)  # fmt: skip
Food101 = declare(
    ImageTask, "food101", "Which of 101 dishes is on this photograph?",
    repository="ethz/food101", reported="validation", classes=101,
)  # fmt: skip
FashionMNIST = declare(
    ImageTask, "fashion_mnist", "Which of ten kinds of clothing does this grey image of 28 x 28 pixels show?",
    repository="zalando-datasets/fashion_mnist", classes=10,
)  # fmt: skip


class ImageNet1k(ImageTask):
    """Which of a thousand things does this photograph show? The classes go by their numbers.

    They stand in the order of their WordNet identifiers, and so do the outputs of the usual checkpoints. About 8,700
    of the 1.28 million training images are read: calibration and selection need no more. The Hub gives the files to
    those alone who accept its terms there and are logged in (hf auth login).
    """

    name = "imagenet1k"
    repository = "ILSVRC/imagenet-1k"
    reported = "validation"
    classes = 1000
    numbered = True
    trained = "train-0000[01]"


IMAGE_TASKS: tuple[type[ImageTask], ...] = (CIFAR10, CIFAR100, Food101, FashionMNIST, ImageNet1k)
