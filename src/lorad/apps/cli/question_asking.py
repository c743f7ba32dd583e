"""Asks a running lorad for questions of its documents, for ``lorad docs questions``.

What lives here: the requests, in which order, the trial of a base before its rows are written, and what is shown meanwhile. What
never does: which questions are fit (``retrieval.question_drawing``), the file's form (``question_file``), the report.
"""

import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from lorad.apps.cli.context import when_free
from lorad.apps.cli.question_file import QuestionFile
from lorad.apps.cli.question_report import End, Report, progress, told
from lorad.apps.screens import terminal
from lorad.errors import ConfigError, ProtocolError
from lorad.records import normal_form
from lorad.retrieval import question_drawing
from lorad.retrieval.question_drawing import TRIED, Drawing, Fact, Flaw
from lorad.serving.answers import DocumentSummary
from lorad.serving.client import Client

DIVIDED = "divided"
"""The state of a document that can be found; one that waits may be about to replace another, and one that is ``same`` has its text."""

LARGE = 1_000_000_000
"""Parameters from which on a base is not blamed for its size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is asked of which documents."""

    track: str
    name: str
    """A file, title or url; all documents if empty."""
    model: str
    limit: int | None
    """Questions after which to stop."""


class Asking:
    """One run of the command."""

    def __init__(
        self, client: Client, wanted: Wanted, file: QuestionFile, clock: Callable[[], float]
    ) -> None:
        self._client, self._wanted, self._file, self._clock = client, wanted, file, clock
        self._began = clock()
        self._refused: Counter[Flaw] = Counter()
        self._documents = self._pieces = self._written = 0
        self._asked = set(file.asked)
        self._held: list[Mapping[str, Any]] = []
        """Rows of a base that is still on trial."""
        self._is_on_trial = wanted.model not in file.models  # who drew rows of this file has passed

    def run(self) -> Report:
        """Ask about every fact that the file has not been asked about; raise ``ConfigError`` for a base that asks badly."""
        is_watched = sys.stderr.isatty()
        end: End
        try:
            end = self._ask_all(is_watched)
        except KeyboardInterrupt:
            end = "interrupted"
        finally:
            if is_watched:
                terminal.redraw("")
        return Report(
            file=str(self._file.path),
            model=self._wanted.model,
            track=self._wanted.model.partition("@")[0],
            documents=self._documents,
            pieces=self._pieces,
            questions=self._written,
            rows=self._file.rows,
            refused={str(flaw): count for flaw, count in self._refused.most_common()},
            end=end,
            seconds=round(self._clock() - self._began, 1),
        )

    def _ask_all(self, is_watched: bool) -> End:
        """Return what ended it."""
        for document, fact, share in self._facts():
            if is_watched:
                seconds, passed = self._clock() - self._began, self._written + len(self._held)
                line = progress(share, self._pieces, passed, seconds, self._wanted.limit)
                terminal.redraw(line[: shutil.get_terminal_size().columns - 1])
            self._take(document, question_drawing.draw(fact, self._say, self._asked))
            if self._is_on_trial and self._pieces == TRIED:
                self._end_trial()
            if not self._is_on_trial and self._written == self._wanted.limit:
                return "limit_reached"
        if self._is_on_trial:
            self._end_trial()
        return "all_asked"

    def _facts(self) -> Iterator[tuple[DocumentSummary, Fact, float]]:
        """Yield what the file has not been asked about, and the share of the characters that stand before it."""
        summaries = self._summaries()
        first = {each.id: self._file.behind(self._place(each)) + 1 for each in summaries}
        total = sum(max(0, each.characters - first[each.id]) for each in summaries)
        done = 0
        for each in summaries:
            document = self._client.document(each.id, self._wanted.track)
            self._documents += 1
            for fact in question_drawing.facts_of(document.text, document.markup, document.title):
                if fact.start >= first[each.id]:
                    yield each, fact, (done + fact.start - first[each.id]) / max(1, total)
            done += max(0, each.characters - first[each.id])

    def _summaries(self) -> list[DocumentSummary]:
        """Return the documents that are asked about, the oldest first: what is added later stands behind them."""
        track, name = self._wanted.track, self._wanted.name
        found: list[DocumentSummary] = []
        page = self._client.documents(track, name).documents
        while page and (not found or page[-1].id < found[-1].id):
            found += page
            page = self._client.documents(track, name, before=found[-1].id).documents
        divided = [each for each in reversed(found) if each.state == DIVIDED]
        if not divided:
            of = f" of the name {name}" if name else ""
            raise ConfigError(
                f"{track} has no document{of} that is divided; see: lorad docs list --track {track}, or add one with: lorad docs"
                f" add FILE --track {track}",
                code="no_document",
            )
        return divided

    def _place(self, document: DocumentSummary) -> tuple[str, int, str]:
        return self._wanted.track, document.id, document.name

    def _say(self, prompt: str, tokens: int) -> str:
        """Ask the model alone; to what is too long for it, it says nothing."""
        asked = [{"role": "user", "content": prompt}]
        options = {"temperature": 0.0, "max_tokens": tokens, "lorad": {"retrieve": False}}
        try:
            answer = when_free(lambda: self._client.chat(asked, self._wanted.model, **options))
        except ProtocolError as error:
            if error.code != "context_length_exceeded":
                raise
            return ""
        return answer.choices[0].message.content or ""

    def _take(self, document: DocumentSummary, drawing: Drawing) -> None:
        self._pieces += 1
        if drawing.flaw is not None:
            self._refused[drawing.flaw] += 1
            return
        track, number, name = self._place(document)
        source = {"track": track, "document": number, "name": name, "model": self._wanted.model}
        self._asked.add(normal_form(drawing.question))
        self._held.append(question_drawing.row(drawing, source))
        if not self._is_on_trial:
            self._write()

    def _end_trial(self) -> None:
        """Write what a base has drawn that is good enough; raise ``ConfigError`` for one that is not."""
        if not question_drawing.is_good_enough(len(self._held), self._pieces):
            raise self._not_good_enough()
        self._is_on_trial = False
        self._write()

    def _write(self) -> None:
        """Write the rows that are held, as many as are wanted."""
        for row in self._held:
            if self._written != self._wanted.limit:
                self._file.add(row)
                self._written += 1
        self._held = []

    def _not_good_enough(self) -> ConfigError:
        shown = self._client.call("POST", "/api/show", {"model": self._wanted.model})
        base, size = shown["details"]["parent_model"], shown["details"]["parameter_size"]
        is_small = shown["model_info"]["general.parameter_count"] < LARGE
        what = (
            "it is too small to draw questions from documents; try one of a billion parameters or more with --model"
            if is_small
            else "it does not draw questions from these documents well enough; try another one with --model"
        )
        return ConfigError(
            f"the base {base} ({size}) passes {len(self._held)} of {self._pieces}: {what}. Refused: {told(self._refused)}",
            code="base_not_good_enough",
            passed=len(self._held),
            tried=self._pieces,
            refused={str(flaw): count for flaw, count in self._refused.most_common()},
        )
