"""What can go wrong, by what the caller should do next.

The kinds of the Rust crates, one class each. Every message names the thing it is about and what to do next.
"""


class TpdeError(Exception):
    """Base of all errors of this package."""


class NotFoundError(TpdeError, LookupError):
    """The thing does not exist: name another one, or make it first."""


class CorruptError(TpdeError):
    """Stored bytes failed a check: the same object will not get better."""


class ConflictError(TpdeError):
    """The store holds something that contradicts the request: decide, then ask again."""


class NewerError(TpdeError):
    """Written by a newer version: upgrade. Nothing was changed."""


class OutcomeUnknownError(TpdeError):
    """The request may or may not have taken effect: the same again is harmless and tells."""


class InputError(TpdeError, ValueError):
    """What was passed cannot be used: correct it."""


class BackendError(TpdeError, OSError):
    """The disk or the server failed: mend it and ask again; whatever is stored stays stored."""


class CancelledError(TpdeError):
    """Whoever waited wanted it to stop: nothing is unfinished."""
