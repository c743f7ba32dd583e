"""What asks an index before a model is asked, and what else makes vectors.

What lives here: what serving wants of whoever looks a question up or embeds a text, and which conversations are looked up at
all. What never does: searching, deciding how a question is answered (``lorad.retrieval``), generating.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lorad.retrieval.answering import Reply

LookUp = Callable[[str, Sequence[Mapping[str, Any]]], Reply | None]
"""Returns how a version is to answer a conversation, ``None`` where nothing was looked up."""

INSTRUCTING = frozenset({"system", "tools", "tool"})
"""Roles whose messages say how to answer: a trained wording in place of the conversation would lose that."""


class Embedding(Protocol):
    """A model that makes vectors of texts (``models.embedders.Embedder``)."""

    @property
    def name(self) -> str:
        """Return the base's name."""

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return a row of unit length for each text, [N, D]; a text too long for the model is cut."""

    def count_tokens(self, texts: Sequence[str]) -> int:
        """Return how many tokens of these texts ``embed`` reads, all together."""


class Retrieving(Protocol):
    """Whoever knows which example of memory a question asks for."""

    def reply(self, track: str, version: str, messages: Sequence[Mapping[str, Any]]) -> Reply | None:
        """Return how to answer, ``None`` if the track or the version has no index.

        It is called in the thread of a request, by several at once. It must hold no lock that generation needs.
        """

    @property
    def embedders(self) -> Mapping[str, Embedding]:
        """Return what each track's questions are compared with."""


def is_looked_up(messages: Sequence[Mapping[str, Any]]) -> bool:
    """Tell whether a conversation only asks: no message of it says how to answer."""
    return not any(message["role"] in INSTRUCTING for message in messages)


def nothing(_version: str, _messages: Sequence[Mapping[str, Any]]) -> None:
    """Look nothing up."""
