"""What the learning loop asks of others, who hold models, index examples or read files."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Protocol

from lorad.config import InboxSettings
from lorad.datasets import reader, sidecar
from lorad.datasets.other_wordings import HeldOut
from lorad.errors import LoradError
from lorad.records import Example, Plan
from lorad.storage.documents import Added, Document
from lorad.storage.source import Source
from lorad.track import Track


class ModelPort(Protocol):
    """Whoever holds models: measures rows, plans sessions, swaps versions."""

    def check(self, track: Track, example: Example) -> Example:
        """Return an example as the track learns it; raise ``SampleError`` for one that its base could not give back."""

    def labels(self, track: Track) -> Collection[str]:
        """Return the labels that the version knows from which a track answers, as its datasets write them; none of other tasks."""

    def plan(
        self, track: Track, examples: Sequence[Example], overrides: dict[str, Any], drift: float
    ) -> Plan:
        """Plan a session for these examples, on a parent that has drifted so far from its base (``judge.drift``)."""

    def serve(self, track: Track, version: str | None) -> str:
        """Answer from this version from now on; raise ``RegistryError`` when it cannot be loaded.

        Return why it answers slower than it could if that may pass, an empty text where there is nothing to wait for.
        """

    def serve_faster(self, track: Track) -> str:
        """Try again to answer as fast as can be from what serves; return what ``serve`` does."""

    def fingerprint(self, track: Track) -> str:
        """Return the fingerprint of the track's base model."""

    def damaged_bases(self) -> list[LoradError]:
        """Hash the base models' files anew; return one error for each base that is not what was added."""


class Index(Protocol):
    """Finds a track's examples by what they mean."""

    def step(self, limit: int) -> bool:
        """Index at most so many of the examples that are not yet; return whether more are left."""

    def left(self) -> int:
        """Count the examples that are not indexed yet."""


class Stepping(Protocol):
    """Does its work a little at a time."""

    def step(self) -> bool:
        """Do what fits into a quarter of a second; return whether more is left."""


class Documents(Protocol):
    """Holds the documents of tracks that learn nothing."""

    @property
    def tracks(self) -> Collection[str]:
        """Return their names."""

    def add(
        self, track: str, documents: Iterable[Document], *, drop: int, now: float, earlier: Collection[int]
    ) -> Mapping[Added, int]:
        """Add what a file says, all or nothing, and a second time nothing; return what became of how many documents.

        ``earlier`` are the drops of the same file as it was read before: what only they hold is removed. Raise ``SampleError``
        for a document that cannot be stored.
        """


class Reader(Protocol):
    """Reads dropped files, in this process or in one of its own (``reader_process``)."""

    def read(
        self,
        file: Source,
        limits: InboxSettings,
        task: str,
        fields: Mapping[str, str],
        labels: Sequence[str],
        check: reader.Check,
        *,
        held_out: Sequence[HeldOut],
        known: Collection[str],
    ) -> reader.Reading:
        """Read a dataset file; raise ``SampleError`` for one of which too little can be used."""

    def sidecar(self, source: Source) -> sidecar.Sidecar:
        """Read a sidecar; raise ``SampleError``."""

    def wordings(self, source: Source) -> list[HeldOut]:
        """Read the wordings that a sidecar holds out; raise ``SampleError``."""
