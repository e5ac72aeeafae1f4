"""Errors that a user can cause.

Each carries one sentence that says what is wrong and what to do. The command line prints that sentence and
exits with 2; a library caller catches them as the `ValueError`, `OSError` or `RuntimeError` that they also are.
"""


class ByteloomError(Exception):
    """Base of every error that byteloom raises on purpose."""


class InvalidInputError(ByteloomError, ValueError):
    """An argument, or the content of an input, cannot be used."""


class InvalidTypeError(ByteloomError, TypeError):
    """An argument is of another type than what is asked for, such as text in the place of token ids."""


class UnsupportedPositionError(InvalidInputError):
    """The positions of a model cannot be moved: not rotary, changing with the length, or hidden in its attention."""


class CacheMismatchError(InvalidInputError):
    """A key-value cache was filled by another model than the one it is used with."""


class CacheStateError(ByteloomError, RuntimeError):
    """A key-value cache cannot do this in its present state."""


class ModelOutputError(ByteloomError, RuntimeError):
    """A model gives numbers that nothing can be made of."""


class FileError(ByteloomError, OSError):
    """A file or folder cannot be read or written."""


class MissingExtraError(ByteloomError, ImportError):
    """An optional dependency is not installed; the message names the extra that brings it."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is not installed; run: pip install 'byteloom[{extra}]'")
