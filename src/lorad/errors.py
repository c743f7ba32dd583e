"""One root error, one subclass per reaction.

What lives here: what can go wrong, sorted by what the program then does. What never does: handling.

Every error has a stable ``code`` for machines, a sentence that says what to do for people, and data
fields. Raise or log, never both; only what loops (the learning loop, server, app, cli) logs.
"""

import difflib
from collections.abc import Sequence
from typing import Any


class LoradError(Exception):
    """Carry a stable code, a sentence that says what to do, and data; raise only its subclasses."""

    code = "internal"

    def __init__(self, message: str, *, code: str | None = None, **data: Any) -> None:
        if type(self) is LoradError:
            raise TypeError("raise one of LoradError's subclasses: the subclass names the reaction")
        super().__init__(message)
        self.message = message
        self.code = code or type(self).code
        self.data = data

    def as_dict(self) -> dict[str, Any]:
        """Return the form that reason files, the socket and ``--json`` show."""
        return {"code": self.code, "message": self.message, **self.data}


class ConfigError(LoradError):
    """Refuse to start: the settings, the home or the environment cannot work."""

    code = "config"


class SampleError(LoradError):
    """Quarantine the file: what it holds cannot be learned from."""

    code = "sample"


class TransientError(LoradError):
    """Try again later: the disk is full, memory is short, somebody else holds the lock."""

    code = "retry_later"


class TrainingError(LoradError):
    """Discard the candidate: the session failed, and ``latest`` goes on serving."""

    code = "training"


class RegistryError(LoradError):
    """Stop using this version: it is missing, damaged or does not fit its base."""

    code = "registry"

    @property
    def is_damage(self) -> bool:
        """Tell whether the version itself is to blame; else it is whole, and what is around it is another.

        What names a ``backend`` is that program's refusal: elsewhere the version may serve.
        """
        return "backend" not in self.data and self.code not in {
            "wrong_base",
            "other_environment",
            "other_quantization",
            "other_tokenizer",
            "no_such_version",
            "not_loaded",
        }


class ProtocolError(LoradError):
    """Answer the client with this status: the request cannot be served as asked."""

    code = "bad_request"

    def __init__(self, message: str, *, status: int = 400, code: str | None = None, **data: Any) -> None:
        super().__init__(message, code=code, **data)
        self.status = status


def describe(error: BaseException) -> dict[str, Any]:
    """Return any exception as a code and a sentence; whatever is not ours is ``internal``."""
    if isinstance(error, LoradError):
        return error.as_dict()
    return {"code": "internal", "message": f"{type(error).__name__}: {error}"}


def did_you_mean(given: str, known: Sequence[str], otherwise: str) -> str:
    """Return the nearest known name as a question to whoever mistyped one; without one, what to say instead."""
    near = difflib.get_close_matches(given, known, n=1)
    return f"did you mean {near[0]}?" if near else otherwise
