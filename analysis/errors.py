"""Errors of figures and tables, in words for the person who builds them."""


class Unavailable(Exception):
    """The rows do not allow this figure or table; the message says what is lacking."""
