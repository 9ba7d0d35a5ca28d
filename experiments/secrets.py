"""Keys and tokens of the environment, which must not reach a file."""

import os
import re

NAMES = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?)$", re.IGNORECASE)
SHORTEST = 6  # a shorter value would hide ordinary words


def redacted(text: str) -> str:
    """The text with three stars in the place of every value that the environment calls a key, a token or a password."""
    for name, value in os.environ.items():
        if NAMES.search(name) and len(value) >= SHORTEST:
            text = text.replace(value, "***")
    return text
