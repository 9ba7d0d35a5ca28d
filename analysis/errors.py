"""What can be wrong with rows, in words for the person who asked for a figure."""


def printable(text: str) -> str:
    """A text that may have come from anywhere, without the characters that would steer a terminal."""
    return text if text.isprintable() else "".join(one if one.isprintable() else "?" for one in text)


class RowsWarning(UserWarning):
    """A file or run that was left out; the message is one sentence, and safe to print."""

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class Unavailable(Exception):
    """The rows do not allow this figure or table; the message says what is lacking."""
