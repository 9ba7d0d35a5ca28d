"""What can be wrong with rows, in words for the person who asked for a figure."""


class RowsWarning(UserWarning):
    """A file or run that was left out; the message is one sentence."""


class Unavailable(Exception):
    """The rows do not allow this figure or table; the message says what is lacking."""
