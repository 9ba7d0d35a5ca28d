"""Errors for people: the message is a sentence that names the parameter, its value and what would work."""

import os
import sys
from collections.abc import Collection
from typing import Any


class HiesError(ValueError):
    """A mistake that the caller can mend; command lines print its message alone, without a stack trace."""


class ParameterError(HiesError):
    """A parameter has a value that it cannot take.

    Attributes:
        name: the parameter, as the library calls it; a command line knows which of its options sets it.
        value: what was given.
        expected: what would work, in words that follow a semicolon.
    """

    def __init__(self, name: str, value: Any, expected: str) -> None:
        super().__init__(f"{name} is {value!r}; {expected.rstrip('.')}{'.' * (not expected.endswith('?'))}")
        self.name, self.value, self.expected = name, value, expected

    def __reduce__(self) -> Any:
        """Pickles by its parts: errors cross processes, and an exception is rebuilt from its message otherwise."""
        return type(self), (self.name, self.value, self.expected)

    def renamed(self, name: str) -> "ParameterError":
        """Returns the same error under another name of the parameter, such as the option that sets it."""
        return type(self)(name, self.value, self.expected)


def check_choice(name: str, value: Any, values: Collection[str]) -> None:
    """Raises ParameterError for a parameter that is none of the values that it can take."""
    if not isinstance(value, str) or value not in values:  # an array would be compared entry by entry
        *first, last = values
        raise ParameterError(name, value, f"use {', '.join(first)} or {last}")


class UnsupportedModelError(HiesError):
    """The model's heads cannot be reached, and the message says why."""


class RowsWarning(UserWarning):
    """A file or run was left out; the message is one sentence, and safe to print."""

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


def printable(text: str) -> str:
    """Returns a text that may have come from anywhere without the characters that would steer a terminal."""
    return text if text.isprintable() else "".join(one if one.isprintable() else "?" for one in text)


def first_line(error: BaseException) -> str:
    """Returns the first line of what an error of another library says, or its kind where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".: ")


def brief(error: BaseException) -> str:
    """Returns 100 characters of what an error of another library says, on one line, or its kind."""
    return " ".join(str(error).split())[:100] or type(error).__name__


def output_closed() -> int:
    """Returns the exit status of a command whose reader left (`| head`); what is left of its output goes nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains when it ends
    return 141  # 128 + SIGPIPE, as a shell has it
