"""Asks a running lorad question after question, for ``lorad test``.

What lives here: one request for each question and way, and what is shown meanwhile. What never does: which answers are
right, the report (``fact_test``).
"""

import http
import shutil
import sys
from collections.abc import Callable, Sequence

from lorad.apps.cli.context import when_free
from lorad.apps.cli.fact_test import Grader, Outcome, Question, Said, Way, progress
from lorad.apps.screens import terminal
from lorad.errors import ProtocolError
from lorad.serving.client import Client


def ask_all(
    client: Client, asked: Sequence[Question], ways: Sequence[Way], model: str, clock: Callable[[], float]
) -> tuple[list[Outcome], tuple[str, ...]]:
    """Return what came of every question, and who answered.

    Each question is asked in every way before the next one, so that the seconds for what is done tell of what is left.
    """
    grader, began = Grader(asked), clock()
    outcomes: list[Outcome] = []
    models: dict[str, None] = {}
    total = len(asked) * len(ways)
    is_watched = sys.stderr.isatty()
    try:
        for question, way in ((question, way) for question in asked for way in ways):
            if is_watched:
                line = progress(len(outcomes), total, clock() - began)
                terminal.redraw(line[: shutil.get_terminal_size().columns - 1])
            said = _ask(client, question, way, model)
            models |= {said.model: None} if said.model else {}
            outcomes.append(grader.outcome(question, way, said))
    finally:
        if is_watched:
            terminal.redraw("")
    return outcomes, tuple(models)


def _ask(client: Client, question: Question, way: Way, model: str) -> Said:
    """Ask a question; what cannot be asked, because it is too long for example, is answered by the reason."""
    try:
        return when_free(lambda: _answer(client, question, way, model))
    except ProtocolError as error:
        if error.status != http.HTTPStatus.BAD_REQUEST:
            raise
        return Said(text=f"({error.message})")


def _answer(client: Client, question: Question, way: Way, model: str) -> Said:
    options = {"lorad": {"retrieve": False}} if way == "weights" else {}
    stream = client.stream_chat(question.messages, model, temperature=0.0, **options)
    text = ""
    try:
        for piece in stream:
            text += piece
            if len(text) > question.most_characters:
                break
    finally:
        stream.close()
    return Said(text=text, model=stream.model, mode=stream.origin.mode if stream.origin else None)
