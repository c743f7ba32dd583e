"""Texts that a command sends: its own words, or one from each line of standard input.

What lives here: reading and checking them, and asking about more than one request may hold. What never does: commands.
"""

import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Protocol, TypeVar

from lorad.errors import ConfigError
from lorad.serving.answers import TrackStatus

AT_ONCE = 64
"""Texts of one request; the daemon takes no more."""

BYTE_ORDER_MARK = "\ufeff"
"""The byte order mark, which some programs write first."""


class Answer(Protocol):
    """What a track says of some texts."""

    @property
    def model(self) -> str:
        """Return the track and the version that answered."""


A = TypeVar("A", bound=Answer)


def given(words: Sequence[str], use: str) -> list[str]:
    """Return a command's words, or the lines of standard input that say something, where there are none or just ``-``.

    Raise ``ConfigError``, which names how to ``use`` the command, where that leaves nothing.
    """
    is_piped = not words or list(words) == ["-"]
    lines = "" if sys.stdin.isatty() or not is_piped else piped(use, "no_text")
    # not splitlines(): a text may hold other ends of lines, of pages and of paragraphs
    found = [text for text in (lines.split("\n") if is_piped else words) if text.strip()]
    if not found:
        raise ConfigError(f"no text given; use: {use}, or pipe one text a line", code="no_text")
    check_typed("".join(found))
    return found


def piped(use: str, code: str) -> str:
    """Return standard input without the byte order mark that some programs write."""
    try:
        return sys.stdin.read().removeprefix(BYTE_ORDER_MARK).rstrip("\n")
    except OSError as error:
        message = f"standard input cannot be read: {error.strerror or error}; use: {use}"
        raise ConfigError(message, code=code) from None


def check_typed(text: str) -> None:
    """Raise ``ConfigError`` if the terminal sent bytes that are not valid text."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ConfigError(
            "the input is not valid text in this terminal's encoding; set a matching one, such as LC_ALL=C.UTF-8",
            code="bad_text",
        ) from None


def only_track(
    tracks: Mapping[str, TrackStatus], tasks: Collection[str], verb: str, what: str, example: str
) -> str:
    """Return the only track with one of these tasks, which ``verb`` and ``what`` name (``learn``, ``labels``).

    Raise ``ConfigError`` where several have, or none has: then ``example`` is the command that starts a daemon with one.
    """
    found = [name for name, track in tracks.items() if track.task in tasks]
    if not found:
        raise ConfigError(f"no track {verb}s {what}; start the daemon with one: {example}", code="no_model")
    if len(found) > 1:
        told = f"these tracks {verb} {what}: {', '.join(found)}"
        raise ConfigError(f"{told}; name one with: --model NAME", code="no_model")
    return found[0]


def asked_in_parts(ask: Callable[[str, list[str]], A], model: str, texts: Sequence[str]) -> list[A]:
    """Return the answers to texts of any number, all by the version that answers the first of them."""
    answers: list[A] = []
    for part in in_parts(texts):
        answers.append(ask(model, part))
        model = answers[0].model
    return answers


def in_parts(texts: Sequence[str]) -> Iterator[list[str]]:
    """Yield texts of any number in requests' worths, in their order."""
    for begin in range(0, len(texts), AT_ONCE):
        yield list(texts[begin : begin + AT_ONCE])
