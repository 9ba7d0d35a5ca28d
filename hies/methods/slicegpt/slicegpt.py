"""SliceGPT (Ashkboos et al. 2024, arXiv 2401.15024), without and with recovery tuning: a narrower residual stream."""

import contextlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from transformers import PreTrainedModel

from hies import equations
from hies.errors import HiesError
from hies.methods.method import Calibration, Method
from hies.methods.slicegpt import family_of, sliced
from hies.methods.slicegpt.tuning import lora, recover
from hies.training import Finetuning

TUNING = ("tune_epochs", "tune_learning_rate", "tune_rank", "tune_examples", "tune_batch_size")


@dataclass(frozen=True)
class SliceGPT(Method):
    """Principal axes of the residual stream go: of its d dimensions round(ratio * d).

    The columns of the query, key and value matrices and the rows of the output matrix then lose that share of their
    weights; the matrices of the MLP lose it as well, and every shortcut gets a matrix that the dense model has not.
    Heads, embeddings and classifier stay whole.

    damping: see `hies.equations.principal_basis`. tune: tune the layers with LoRA on the task's training examples
    where something was cut; embeddings and classifier stay. tune_epochs, tune_learning_rate, tune_batch_size: of the
    tuning. tune_rank: of the updates. tune_examples: at most so many training examples, drawn with the seed.
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
            raise HiesError(f"criterion.damping is {self.damping}; it must be 0 or more, and finite (0.01 is usual).")
        if not 0 < self.tune_learning_rate < float("inf"):
            raise HiesError(
                f"criterion.tune_learning_rate is {self.tune_learning_rate}; it must be positive and finite."
            )
        for knob in ("tune_epochs", "tune_rank", "tune_examples", "tune_batch_size"):
            if getattr(self, knob) < 1:
                raise HiesError(f"criterion.{knob} is {getattr(self, knob)}; it must be at least 1.")

    @property
    def tunes(self) -> bool:
        """Whether there is a tuning, which needs training examples."""
        return self.tune

    @property
    def knobs(self) -> dict[str, Any]:
        """The knobs in use: those of the tuning count only where there is one."""
        return {name: value for name, value in asdict(self).items() if self.tune or name not in TUNING}

    def check(self, model: PreTrainedModel) -> None:
        """See `Method.check`; what the layers compute is checked by a rotation when a model is pruned."""
        family_of(model)

    @contextlib.contextmanager
    def pruned(self, model: PreTrainedModel, calibration: Calibration, ratio: float) -> Iterator[PreTrainedModel]:
        """A sliced copy; see `Method.pruned`.

        Raises:
            UnsupportedModelError: the model cannot be sliced, or it computes something that slicing does not know.
            HiesError: a ratio that leaves no dimension; tuning without training examples or without peft.
        """
        dense = family_of(model).width
        cut = equations.removal_count(ratio, dense)
        if cut == dense:
            raise HiesError(
                f"ratio {ratio} leaves none of the {dense} dimensions that slicing cuts; it must be below "
                f"{(dense - 0.5) / dense:.4g}."
            )
        tuned = self.tune and cut > 0
        if tuned and not calibration.train:
            raise HiesError("criterion.tune is true, but there are no training examples; give Calibration(train=...).")
        if tuned:
            lora()
        small = sliced(model, calibration.batches, dense - cut, self.damping)
        if tuned:
            self._recover(small, calibration)
        yield small

    def _recover(self, small: PreTrainedModel, calibration: Calibration) -> None:
        settings = Finetuning(self.tune_epochs, self.tune_learning_rate, self.tune_batch_size, seed=calibration.seed)
        assert calibration.train is not None
        recover(small, calibration.train, settings, self.tune_rank, self.tune_examples, calibration.precision)
