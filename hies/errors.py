"""Errors for people: the message is a sentence that names the option, its value and what would work."""


class HiesError(ValueError):
    """A mistake that the caller can mend; command lines print its message alone, without a stack trace."""


class UnsupportedModelError(HiesError):
    """The model's heads cannot be reached, and the message says why."""
