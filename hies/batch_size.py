"""What to do when memory runs out: the same work in smaller batches."""

import gc
import warnings
from collections.abc import Callable
from typing import TypeVar

import torch

from hies.errors import HiesError

Result = TypeVar("Result")
# What allocators say that raise a bare RuntimeError.
OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")


class BatchSize:
    """The largest batch that fit so far; it only shrinks.

    Attributes:
        size: examples of a batch.
    """

    def __init__(self, size: int) -> None:
        self.size = size

    def retry_on_oom(self, work: Callable[[int], Result]) -> Result:
        """Returns what `work(batch size)` returns, tried again with half the batch as often as memory runs out.

        Raises HiesError where it runs out with a single example.
        """
        while True:
            try:
                return work(self.size)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                if self.size == 1:
                    raise HiesError(
                        "The memory does not hold a single example; make model.max_length smaller, set "
                        "model.dtype=bfloat16, or take a smaller model or a larger device."
                    ) from error
            self._halve()  # when the error, which holds on to what the batch took, is gone

    def _halve(self) -> None:
        self.size //= 2
        warnings.warn(f"Out of memory; the batch is {self.size} from here on, results are the same.", stacklevel=3)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def is_out_of_memory(error: Exception) -> bool:
    """Returns whether an allocator raised this, of whatever device."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in OUT_OF_MEMORY)
