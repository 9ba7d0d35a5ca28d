"""Fine-tuning: its settings here, which configurations read without torch; the loop in `hies.training.loop`."""

from dataclasses import dataclass

from hies.errors import ParameterError


@dataclass(frozen=True)
class Finetuning:
    """Settings of a fine-tuning run with AdamW.

    Attributes:
        epochs: passes over the training examples, at most; the best one counts.
        learning_rate: the highest one.
        batch_size: examples of a step.
        warmup: share of the steps in which the learning rate rises from zero.
        weight_decay: of matrices, not of biases and norms.
        seed: of the order of the examples and of dropout.
    """

    epochs: int = 3
    learning_rate: float = 5e-5
    batch_size: int = 32
    warmup: float = 0.1
    weight_decay: float = 0.01
    seed: int = 0

    def __post_init__(self) -> None:
        infinite = float("inf")
        for name, fits, expected in (
            ("epochs", self.epochs >= 1, "it must be at least 1"),
            ("batch_size", self.batch_size >= 1, "it must be at least 1"),
            ("learning_rate", 0 < self.learning_rate < infinite, "it must be positive and finite"),
            ("warmup", 0 <= self.warmup <= 1, "it is a share from 0 to 1"),
            ("weight_decay", 0 <= self.weight_decay < infinite, "it must be 0 or more, and finite"),
            ("seed", 0 <= self.seed < 2**32, "it must be from 0 to 4294967295"),
        ):
            if not fits:
                raise ParameterError(name, getattr(self, name), expected)
