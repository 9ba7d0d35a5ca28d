"""Image classification with data sets of the Hugging Face Hub, or local copies of them.

One split is reported; of the training split some examples, drawn once, are set aside for selection. Images stay the
PNG or JPEG files that they are (`hies.batching.Pictures` decodes them when they are asked for), but all files of the
splits in use are held in memory: 0.1 GB for CIFAR-10, CIFAR-100 or Fashion-MNIST, 5 GB for Food-101, 7.5 GB for
ImageNet-1k, of whose 294 training files two are read and the others not even downloaded.
"""

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow.parquet

from hies.errors import HiesError
from hies.storage import digest
from hies.tasks import shards
from hies.tasks.base import Split, Splits, Task

SET_ASIDE = 1000  # training examples for selection, at most a tenth of all


@dataclass(frozen=True)
class PictureTask(Task):
    """One data set; a subclass declares its columns and labels, and where its splits come from.

    repository: its name on the Hub. image, label: its columns. labels: in the order of the class indices. trained,
    reported: splits of the data set, by the beginning of their files' names.

    data_seed: which training examples are set aside, and the order of the reported ones. They are shuffled because
    `max_examples` takes the first, and some data sets are sorted by class.
    """

    modality: ClassVar[str] = "image"
    repository: ClassVar[str]
    image: ClassVar[str] = "image"
    label: ClassVar[str] = "label"
    labels: ClassVar[tuple[str, ...]]
    trained: ClassVar[str] = "train"
    reported: ClassVar[str] = "test"

    data_seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.data_seed < 2**32:
            raise HiesError(f"task.data_seed is {self.data_seed}; it must be between 0 and 4294967295.")

    def label_names(self) -> tuple[str, ...]:
        """The classes as the data set names them."""
        return self.labels

    def identity(self, data_root: Path | None) -> str:
        """A digest of the files of both splits and of how they are divided."""
        files = [shards.identity(self.repository, name, data_root) for name in (self.trained, self.reported)]
        return digest([files, SET_ASIDE, self.data_seed])

    def load(self, data_root: Path | None, cache_dir: Path) -> Splits:
        """All labelled examples, divided into the three splits."""
        train, report = _read(type(self), data_root)
        generator = np.random.default_rng(self.data_seed)
        drawn = generator.permutation(len(train))
        aside = min(SET_ASIDE, len(train) // 10)
        shuffled = generator.permutation(len(report))
        return Splits(train.take(np.sort(drawn[aside:])), train.take(np.sort(drawn[:aside])), report.take(shuffled))


@lru_cache(maxsize=1)
def _read(kind: type[PictureTask], data_root: Path | None) -> tuple[Split, Split]:
    """What is trained on and what is reported, whole; the last data set alone stays in memory."""
    return _split(kind, kind.trained, data_root), _split(kind, kind.reported, data_root)


def _split(kind: type[PictureTask], name: str, data_root: Path | None) -> Split:
    rows = shards.read(kind.repository, name, (kind.image, kind.label), data_root)
    _check_names(kind, name, shards.files(kind.repository, name, data_root)[0])
    files = [image and image["bytes"] for image in rows[kind.image]]
    if (missing := next((row for row, file in enumerate(files) if not file), None)) is not None:
        raise HiesError(f"Row {missing} of the split {name!r} of {kind.repository} holds no image; give a whole copy.")
    labels = rows[kind.label].to_numpy(np.int64)
    if not 0 <= labels.min(initial=0) <= labels.max(initial=0) < len(kind.labels):
        raise HiesError(
            f"The split {name!r} of {kind.repository} has labels from {labels.min()} to {labels.max()}, but "
            f"task={kind.name} has {len(kind.labels)} classes."
        )
    return Split({"image": files}, labels)


def _check_names(kind: type[PictureTask], name: str, path: Path) -> None:
    """Refuse a copy whose files say that its classes stand in another order, which nothing else would reveal."""
    written = (pyarrow.parquet.read_schema(path).metadata or {}).get(b"huggingface", b"{}")
    features = json.loads(written).get("info", {}).get("features", {})
    names = features.get(kind.label, {}).get("names")
    if names and not kind.numbered and tuple(names) != kind.labels:
        raise HiesError(
            f"The split {name!r} of {kind.repository} names its classes {', '.join(names[:3])}, ..., but "
            f"task={kind.name} has {', '.join(kind.labels[:3])}, ... in another order or under other names; give a "
            "copy in the layout of the Hub."
        )


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


class CIFAR10(PictureTask):
    """Which of ten things does this image of 32 x 32 pixels show?"""

    name = "cifar10"
    repository = "uoft-cs/cifar10"
    image = "img"
    labels = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


class CIFAR100(PictureTask):
    """Which of a hundred things? The fine labels; the data set spells crab `cra`."""

    name = "cifar100"
    repository = "uoft-cs/cifar100"
    image = "img"
    label = "fine_label"
    labels = _words(
        """
        apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can
        castle caterpillar cattle chair chimpanzee clock cloud cockroach couch cra crocodile cup dinosaur dolphin
        elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster
        man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck
        pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk
        skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger
        tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm
        """
    )


class Food101(PictureTask):
    """Which of 101 dishes is on this photograph?"""

    name = "food101"
    repository = "ethz/food101"
    reported = "validation"
    labels = _words(
        """
        apple_pie baby_back_ribs baklava beef_carpaccio beef_tartare beet_salad beignets bibimbap bread_pudding
        breakfast_burrito bruschetta caesar_salad cannoli caprese_salad carrot_cake ceviche cheesecake cheese_plate
        chicken_curry chicken_quesadilla chicken_wings chocolate_cake chocolate_mousse churros clam_chowder
        club_sandwich crab_cakes creme_brulee croque_madame cup_cakes deviled_eggs donuts dumplings edamame
        eggs_benedict escargots falafel filet_mignon fish_and_chips foie_gras french_fries french_onion_soup
        french_toast fried_calamari fried_rice frozen_yogurt garlic_bread gnocchi greek_salad grilled_cheese_sandwich
        grilled_salmon guacamole gyoza hamburger hot_and_sour_soup hot_dog huevos_rancheros hummus ice_cream lasagna
        lobster_bisque lobster_roll_sandwich macaroni_and_cheese macarons miso_soup mussels nachos omelette
        onion_rings oysters pad_thai paella pancakes panna_cotta peking_duck pho pizza pork_chop poutine prime_rib
        pulled_pork_sandwich ramen ravioli red_velvet_cake risotto samosa sashimi scallops seaweed_salad
        shrimp_and_grits spaghetti_bolognese spaghetti_carbonara spring_rolls steak strawberry_shortcake sushi tacos
        takoyaki tiramisu tuna_tartare waffles
        """
    )


class FashionMNIST(PictureTask):
    """Which of ten kinds of clothing does this grey image of 28 x 28 pixels show?"""

    name = "fashion_mnist"
    repository = "zalando-datasets/fashion_mnist"
    labels = (
        "T - shirt / top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    )


class ImageNet1k(PictureTask):
    """Which of a thousand things does this photograph show? The classes go by their numbers.

    They stand in the order of their WordNet identifiers, and so do the outputs of the usual checkpoints. About 8,700
    of the 1.28 million training images are read: calibration and selection need no more. The Hub gives the files to
    those alone who accept its terms there and are logged in (hf auth login).
    """

    name = "imagenet1k"
    repository = "ILSVRC/imagenet-1k"
    reported = "validation"
    labels = tuple(map(str, range(1000)))
    numbered = True
    trained = "train-0000[01]"


PICTURES: tuple[type[PictureTask], ...] = (CIFAR10, CIFAR100, Food101, FashionMNIST, ImageNet1k)
