"""SliceGPT (Ashkboos et al. 2024, arXiv 2401.15024), without and with recovery tuning: a narrower residual stream."""

import contextlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import hies
from hies.errors import HiesError, ParameterError
from hies.methods.base import Calibration, Method
from hies.training import Finetuning

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TUNING_KNOBS = ("tune_epochs", "tune_learning_rate", "tune_rank", "tune_examples", "tune_batch_size")


@dataclass(frozen=True)
class SliceGPT(Method):
    """Principal axes of the residual stream go: of its d dimensions round(ratio * d).

    The columns of the query, key and value matrices and the rows of the output matrix then lose that share of their
    weights; the matrices of the MLP lose it as well, and every shortcut gets a matrix that the dense model has not.
    Heads, embeddings and classifier stay whole.

    Attributes:
        tune: tune the layers with LoRA on the task's training examples where something was cut; embeddings and
            classifier stay.
        damping: see `hies.methods.slicegpt.bases.principal_basis`.
        tune_epochs: passes over the examples of the tuning.
        tune_learning_rate: of the tuning.
        tune_rank: of the updates.
        tune_examples: training examples, drawn with the seed, at most.
        tune_batch_size: of the tuning.
    """

    name: ClassVar[str] = "slicegpt"

    tune: bool = False
    damping: float = 0.01
    tune_epochs: int = 2
    tune_learning_rate: float = 1e-3
    tune_rank: int = 16
    tune_examples: int = 6000
    tune_batch_size: int = 32

    def __post_init__(self) -> None:
        if not 0 <= self.damping < float("inf"):
            raise ParameterError("damping", self.damping, "it must be 0 or more, and finite (0.01 is usual)")
        if not 0 < self.tune_learning_rate < float("inf"):
            raise ParameterError("tune_learning_rate", self.tune_learning_rate, "it must be positive and finite")
        for knob in ("tune_epochs", "tune_rank", "tune_examples", "tune_batch_size"):
            if getattr(self, knob) < 1:
                raise ParameterError(knob, getattr(self, knob), "it must be at least 1")

    @property
    def tunes(self) -> bool:
        """Whether there is a tuning, which needs training examples."""
        return self.tune

    @property
    def knobs(self) -> dict[str, Any]:
        """The knobs in use: those of the tuning count only where there is one."""
        return {name: value for name, value in asdict(self).items() if self.tune or name not in TUNING_KNOBS}

    def check(self, model: "PreTrainedModel") -> None:
        """Looks at the parts of a model; what its layers compute is checked by a rotation when it is pruned."""
        from hies.methods.slicegpt.model import family_of

        family_of(model)

    @contextlib.contextmanager
    def pruned(self, model: "PreTrainedModel", calibration: Calibration, ratio: float) -> "Iterator[PreTrainedModel]":
        """Gives a sliced copy, tuned where something was cut; see `Method.pruned`."""
        from hies.methods.slicegpt.model import family_of, sliced
        from hies.methods.slicegpt.tuning import lora, recover

        dense = family_of(model).width
        cut = hies.equations.removal_count(ratio, dense)
        if cut == dense:
            most = f"{(dense - 0.5) / dense:.4g}"
            expected = f"it leaves none of the {dense} dimensions that slicing cuts; it must be below {most}"
            raise ParameterError("ratio", ratio, expected)
        train = calibration.train if self.tune and cut else None
        if self.tune and cut and not train:
            raise HiesError("tune is true, but there are no training examples; give Calibration(train=...).")
        if train:
            lora()  # a missing package is noticed before the work
        small = sliced(model, calibration.batches, dense - cut, self.damping)
        if train:
            epochs, rate, batch_size = self.tune_epochs, self.tune_learning_rate, self.tune_batch_size
            settings = Finetuning(epochs, rate, batch_size, seed=calibration.seed)
            recover(small, train, settings, self.tune_rank, self.tune_examples, calibration.precision)
        yield small
