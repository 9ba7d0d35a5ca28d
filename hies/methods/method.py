"""The contract of everything that prunes: (model, calibration, ratio) -> a pruned model in a with-block."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from transformers import PreTrainedModel

from hies.batching import Batch, Encoded
from hies.errors import HiesError


@dataclass(frozen=True)
class Calibration:
    """What a model is pruned by.

    batches: the labelled calibration examples. train: all training examples, for methods that tune what they left.
    seed: of everything random. precision: of the matrix products of tuning, see `hies.precision.computing`.
    """

    batches: Sequence[Batch]
    train: Encoded | None = None
    seed: int = 0
    precision: str = "float32"

    def __post_init__(self) -> None:
        if isinstance(self.batches, Mapping):
            raise HiesError("batches is a single dict; give a list of them, such as [batch].")
        object.__setattr__(self, "batches", list(self.batches))  # methods read them more than once
        if not self.batches:
            raise HiesError("batches is empty; a model is pruned by at least one calibration example.")


@dataclass(frozen=True)
class Method(ABC):
    """A way to prune that yields no score per head. Subclasses are plain dataclasses whose fields are its knobs.

    ratio is the share of the attention weights that goes, the same share whatever the method cuts.
    """

    name: ClassVar[str]

    @property
    def tunes(self) -> bool:
        """Whether it takes `Calibration.train`."""
        return False

    @property
    def knobs(self) -> dict[str, Any]:
        """The knobs that the result depends on, by name."""
        return asdict(self)

    @abstractmethod
    def check(self, model: PreTrainedModel) -> None:
        """Look at the structure of a model, before any work.

        Raises:
            UnsupportedModelError: the method cannot be applied to it; the sentence says why.
        """

    @abstractmethod
    def pruned(
        self, model: PreTrainedModel, calibration: Calibration, ratio: float
    ) -> AbstractContextManager[PreTrainedModel]:
        """A pruned model inside the block; `model` is bit for bit as before when the block ends.

        Args:
            model: in evaluation mode, with its classifier.
            calibration: what it is pruned by.
            ratio: share of the attention weights that goes, in [0, 1]; 0 gives a model with the answers of `model`.

        Raises:
            UnsupportedModelError: see `check`.
            HiesError: a ratio outside what the method can do.
        """
