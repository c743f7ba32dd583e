"""What the socket says, as records: made by the daemon, sent as JSON, read by the client, shown by the screens.

What lives here: one frozen record for each answer of lorad's own routes (OpenAI's forms are in ``completions``). A field
that is added here is sent, documented in OpenAPI, read and ready to be shown. What never does: reading or writing JSON
(``record_json``), asking, deciding.

Times are Unix seconds, sizes bytes, recall and other shares 0 to 1. Imports the standard library and lorad's own
records alone, for ``lorad status`` must feel instant.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lorad.evaluation.retention import Retention
from lorad.records import Drop, Evaluation, Job, Verdict
from lorad.serving.record_json import RecordError, read, rest
from lorad.states import VersionState

# -- health


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """That the daemon's process answers."""

    alive: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Readiness:
    """Whether questions are answered and files are taken; a status of 503 says the same."""

    ready: bool


# -- predictions


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictions:
    """The answers to some inputs, in their order."""

    model: str
    """The track and the version that answered, as ``mail@v0.1``."""
    system_fingerprint: str = ""
    """Version and hash of what answered."""
    predictions: tuple[Any, ...]
    """What one is, the track's task says; of a classifier its ``label`` and ``confidence``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledSpan:
    """A part of a text, and what it is."""

    start: int
    """In characters (code points), counted from 0."""
    end: int
    """Behind the last."""
    label: str
    text: str
    """What stands there."""
    confidence: float
    """Probability of its least sure token's tag, 0 to 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextSpans:
    """The spans of one text, in their order; no two overlap."""

    spans: tuple[LabelledSpan, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaggedTexts:
    """The spans of some texts, in the texts' order."""

    model: str
    """The track and the version that answered, as ``ner@v0.1``."""
    system_fingerprint: str = ""
    """Version and hash of what answered."""
    texts: tuple[TextSpans, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """One level of a label that is a path, ``animals/birds``."""

    label: str
    """The path as far as this level."""
    probability: float
    """Of all paths through it together; never more than the level above has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FilledGap:
    """A word, or several, that may stand in a gap."""

    word: str
    """With the space before it, if it has one."""
    probability: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FilledText:
    """A text with gaps, and what a model from scratch says stands in them."""

    text: str
    """With the likeliest in each gap."""
    gaps: tuple[tuple[FilledGap, ...], ...]
    """Of each gap, in order, the likeliest first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FilledTexts:
    """What stands in the gaps of some texts, in their order."""

    model: str
    """The track and the version that answered, as ``words@v0.1``."""
    system_fingerprint: str = ""
    """Version and hash of what answered."""
    texts: tuple[FilledText, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Classification:
    """What a text is."""

    label: str | None = None
    """The likeliest label; ``null`` where a text may have several."""
    labels: tuple[str, ...]
    """All labels of the text: the likeliest, or those that are at least as likely as not, the likeliest first."""
    confidence: float
    """Probability of the whole answer."""
    probabilities: Mapping[str, float]
    """Of every label, the likeliest first; those of a text with one label sum to 1. Calibrated on rows that were held out,
    where there were enough."""
    levels: tuple[Level, ...] = ()
    """Of a label that is a path, from the top."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Classifications:
    """What some texts are, in their order."""

    model: str
    """The track and the version that answered, as ``mail@v0.1``."""
    system_fingerprint: str = ""
    """Version and hash of what answered."""
    classifications: tuple[Classification, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PeakEvidence:
    """A peak of a spectrum, and what it says of a molecule."""

    mz: float
    intensity: float
    """Of the strongest peak's."""
    evidence: float
    """In nats: above 0 the peak speaks for the molecule, below for another one of near mass."""
    explained: bool
    """Whether that is above 0."""
    fragment: str | None = None
    """The formula of an ion that breaking up to two bonds of the molecule gives, where one has the peak's mass."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpectrumMatch:
    """How well a molecule matches a spectrum."""

    smiles: str
    """Canonical, without stereochemistry, which no mass spectrum shows."""
    match: float
    """Probability that the spectrum is its own rather than another one's of near mass, 0 to 1."""
    share: float
    """The same among the candidates of the request, which sum to 1."""
    evidence: float
    """Of the spectrum as a whole, in nats. The match's log odds are this plus that of the peaks, weighted by their shares of the
    intensities' square roots."""
    explained_intensity: float
    """Share of the intensity that lies in explained peaks."""
    peaks: tuple[PeakEvidence, ...]
    """The strongest ones, by m/z."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MatchedSpectrum:
    """The candidates of one spectrum."""

    matches: tuple[SpectrumMatch, ...]
    """The likeliest first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MatchedSpectra:
    """The candidates of some spectra, in the spectra's order."""

    model: str
    """The track and the version that answered, as ``spectra@v0.1``."""
    system_fingerprint: str = ""
    """Version and hash of what answered."""
    spectra: tuple[MatchedSpectrum, ...]


# -- systems


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemMember:
    """Who answered for one role of a system."""

    role: str
    track: str
    variant: str = ""
    """Its name in the settings, where a role has several."""
    version: str
    """What answered, or would have."""
    system_fingerprint: str = ""
    corrupt: tuple[str, ...] = ()
    """Newer versions of the track that were found corrupt, for which this one stands in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemStep:
    """What one member said of a text."""

    role: str
    input: str
    """What it was asked."""
    classification: Classification


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemResult:
    """What a system's chain said of one text."""

    label: str | None = None
    """The last step's."""
    ended_at: str
    """The role of the last step: the chain ends early where a label does not lead on."""
    steps: tuple[SystemStep, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemAnswer:
    """What a system says of some texts, in their order."""

    system: str
    members: tuple[SystemMember, ...]
    """In the order of the chain."""
    results: tuple[SystemResult, ...]


# -- models


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelDescription:
    """What answers under a model's name."""

    track: str
    version: str
    """A version, or ``base``."""
    digest: str
    """64 hexadecimal digits that change with whatever would change an answer."""
    since: float
    """Since when it can be asked."""
    base: str
    """The base model's name."""
    architecture: str
    """As the base's own config calls it: ``llama``."""
    parameters: int
    bytes: int
    """Of the base's weights on disk."""
    precision: str
    """In which it answers: ``bfloat16``."""
    context: int | None = None
    """Tokens of prompt and answer together; ``null`` where the base does not say."""
    width: int = 0
    template: str = ""
    """The base's own chat template, in Jinja."""
    can_call: bool = False
    """Whether the template has a place for tools."""


# -- status


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened."""

    id: int
    """Counts up from 1; whoever asks for the events after one misses none."""
    at: float
    name: str
    data: Mapping[str, Any] = rest()
    """What else is told of it, such as ``job``, ``file`` and ``why``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One round of a session over its examples, when it is over."""

    round: int | None = None
    loss: float | None = None
    tested: bool | None = None
    """Whether recall was measured at its end, or is that of the answers last seen."""
    seconds: float | None = None
    recall: float | None = None
    old_recall: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionProgress:
    """Where the running session is; what it cannot tell yet is ``null``."""

    job: int
    dataset: str
    phase: str = "loading"
    elapsed: float | None = None
    """Seconds since it was started."""
    round: int | None = None
    rounds: int | None = None
    """Rounds that it has at most."""
    step: int | None = None
    steps: int | None = None
    tokens: int | None = None
    """That it has trained so far."""
    loss: float | None = None
    learning_rate: float | None = None
    tokens_per_second: float | None = None
    recall: float | None = None
    """Share of the new examples answered right."""
    old_recall: float | None = None
    """The same of what was learned before."""
    target: float | None = None
    """The recall at which it may end."""
    eta_seconds: float | None = None
    paused_seconds: float | None = None
    """How long it has waited for answers; counted in all other times."""
    peak_gib: float | None = None
    too_long: Any = None
    """The rows that are left out because they are longer than the plan allows."""
    resumed_from: str | None = None
    """The checkpoint after which it continues."""
    returned_to: int | None = None
    """The round whose weights it went back to."""
    closed: Round | None = None
    """The last round that is over."""
    error: Mapping[str, Any] | None = None
    history: tuple[Round, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitingFile:
    """A file in the inbox that is not accepted yet."""

    name: str
    track: str
    bytes: int
    age_seconds: float
    """Since its last change."""
    why: str = ""
    """What it waits for, as far as that is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RejectedFile:
    """Something in the inbox that lorad does not take, and leaves where it is."""

    name: str
    code: str
    message: str
    data: Mapping[str, Any] = rest()


@dataclass(frozen=True, slots=True, kw_only=True)
class InboxStatus:
    """How the inbox is watched, and what lies in it."""

    watching: str = ""
    """``events`` or ``polling``."""
    why: str = ""
    """Why it is polled."""
    files: int = 0
    not_taken: tuple[RejectedFile, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStatus:
    """How busy answering is."""

    requests: int
    """Since the start."""
    waiting: int
    active: int
    tokens_per_second: float | None = None
    first_token_seconds: float | None = None
    """From a request's acceptance to the first token of its answer, the median of the last ones."""
    backend: str = ""
    """What generates."""
    backend_because: str = ""
    """Why it is that one, for people."""
    max_batch: int | None = None
    """How many answers of one version share a step at most, where the backend can share them at all."""
    cache_bytes: int | None = None
    """Memory of the attention caches of all answers; ``null`` where the backend cannot tell."""
    max_cache_bytes: int | None = None
    modes: Mapping[str, int] = field(default_factory=dict)
    """How many questions were answered in each way since the start, see ``Origin.mode``; those for which no example was
    looked for are in none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetCounts:
    """How many examples of one dataset are in memory, and what became of them."""

    dataset: str
    examples: int
    learned: int
    recalled: int
    """Answered right in the last test."""
    replaced: int
    """Another dataset has a newer answer."""
    forgotten: int
    """Removed on purpose."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionEntry:
    """A version as the track's list of versions has it."""

    version: str
    date: str = ""
    """The day it was made, as ``2026-11-28``."""
    description: str = ""
    performance: Mapping[str, float | None] = field(default_factory=dict)
    """What it was promoted with, such as ``recall`` of what was new, ``retention`` of the rest, and ``facts`` in other words as served."""
    parent: str | None = None
    """The version that it was trained on top of; ``null`` for the base."""
    job: int | None = None
    state: VersionState = VersionState.INTACT
    pinned: bool = False
    tags: tuple[str, ...] = ()
    others: Mapping[str, Any] = rest()
    """Fields that somebody else has put there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Roles:
    """Which versions of a track have which role."""

    track: str = ""
    latest: str | None = None
    previous: str | None = None
    serving: str | None = None
    """What answers: a version or ``base``; ``null`` where no daemon runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Versions(Roles):
    """A track's versions, oldest first."""

    versions: tuple[VersionEntry, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackStatus(Versions):
    """What a track is and knows."""

    task: str = ""
    base: str = ""
    """The base model's folder in ``models/base``."""
    datasets: tuple[DatasetCounts, ...] = ()
    not_indexed: int = 0
    """Examples that cannot be found by their meaning yet."""
    held_as: str = ""
    """In which form what serves is held: ``base``, ``adapter``, ``merged``, ``packed`` (merged, and laid in memory as the
    processor reads it), or a backend's own; empty where no daemon runs."""
    held_bytes: int = 0
    """Memory that this form takes beside the base and the adapter."""
    not_merged_because: str = ""
    quantization: str = ""
    """In which form the base is held: ``none``, ``8bit`` or ``4bit``; empty where no daemon runs."""
    quantized_because: str = ""
    """Why its weights are rounded, for people; empty where they are not."""
    batches: bool = False
    """Whether answers share steps."""
    batches_because: str = ""
    """Why, or why not, for people."""
    not_looked_up: str = ""
    """Why questions are answered by the weights alone, for people; empty where they are looked up, and for the base."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentCounts:
    """What a track of documents holds."""

    documents: int
    chunks: int
    waiting: int
    """Documents that are not divided into chunks yet, and cannot be found."""
    unembedded: int
    """Chunks that are found by their words alone until they are embedded."""
    by_meaning: bool
    """Whether there is an encoder; without one all are found by their words alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """Everything that ``lorad status`` and ``lorad monitor`` show."""

    lorad: str
    """The daemon's version."""
    home: str
    now: float
    started_at: float
    pid: int
    paused: bool
    """No session starts until somebody says so."""
    ready: bool
    tracks: Mapping[str, TrackStatus]
    jobs: tuple[Job, ...]
    """Those that are not done and those that ended last, newest first."""
    waiting_files: tuple[WaitingFile, ...]
    inbox: InboxStatus = InboxStatus()
    session: SessionProgress | None = None
    troubles: tuple[str, ...] = ()
    """What could not be done and is tried again, a sentence each."""
    engine: EngineStatus
    events: tuple[Event, ...]
    """The newest, oldest first."""
    documents: Mapping[str, DocumentCounts] = field(default_factory=dict)
    """The tracks of documents."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Events:
    """What happened, oldest first."""

    events: tuple[Event, ...]


# -- documents


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundPassage:
    """A part of a document that a search has found: characters ``start`` to ``end`` of its text."""

    document: int
    title: str
    name: str
    """The file that the document came from."""
    url: str
    heading: tuple[str, ...]
    """The headings above it, the outermost first."""
    page: int | None
    """Counted from 1; ``null`` where the document has no pages."""
    start: int
    end: int
    text: str
    score: float
    """By which passages are ordered: comparable within one search alone."""
    similarity: float | None
    """Cosine of its embedding and the query's; ``null`` where there is none."""
    coverage: float
    """Share of the query's words that it holds, weighted by rarity, 0 to 1."""
    relevant: bool
    """Whether it is near enough to stand before a question."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResults:
    """What a search has found, best first."""

    track: str
    passages: tuple[FoundPassage, ...]
    left: int
    """Documents and chunks that are still to be divided or embedded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentSummary:
    """What is known of a document."""

    id: int
    title: str
    name: str
    url: str
    markup: str
    """``plain``, ``markdown`` or ``rst``."""
    tags: tuple[str, ...]
    date: str
    added_at: float
    characters: int
    chunks: int
    unembedded: int
    """Of these, those that are not embedded yet."""
    state: str
    """``waiting`` to be divided, ``divided``, or ``same`` where another document has its text."""
    same_as: int | None = None
    """That document."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentWithText(DocumentSummary):
    """A document with its text."""

    text: str
    spans: tuple[tuple[int, ...], ...]
    """The first character of each chunk, and the one behind its last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentList:
    """A track's documents, the newest first."""

    track: str
    documents: tuple[DocumentSummary, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RemovedDocuments:
    """Documents that were removed."""

    track: str
    documents: tuple[DocumentSummary, ...]


# -- jobs


@dataclass(frozen=True, slots=True, kw_only=True)
class Jobs:
    """All jobs, newest first."""

    jobs: tuple[Job, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class JobWithFile(Job):
    """A job with the file that it learns."""

    drop: Drop | None = None
    """``null`` for a job without a file: a refit, a consolidation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumedJob(Job):
    """A job that is queued again, to go on where it stood."""

    checkpoint: str | None = None
    """The checkpoint after which it continues; ``null`` if it has no complete one and starts over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BadRow:
    """Why a row of a file cannot be learned from."""

    line: int
    message: str
    field: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownExample:
    """An example as people read it."""

    question: str
    answer: str
    dataset: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileReport:
    """What an accepted file held: the ``reason`` of its ``Drop``."""

    description: str = ""
    formats: Mapping[str, int] = field(default_factory=dict)
    """Rows by the format that they were read as."""
    new: int = 0
    known: int = 0
    replacing: int = 0
    bad: int = 0
    contradictions: int = 0
    contradicted_rows: tuple[int, ...] = ()
    bad_rows: tuple[BadRow, ...] = ()
    replaced: tuple[ShownExample, ...] = ()
    """Older examples whose question the file answers differently."""


def report_of(drop: Drop) -> FileReport:
    """Return what an accepted file held; an empty report where nobody can tell."""
    try:
        return read(FileReport, drop.reason)
    except RecordError:
        return FileReport()


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """Whether sessions may start."""

    paused: bool


# -- versions


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFile:
    """A file of a version."""

    sha256: str
    bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a version consists of, as written when it was promoted."""

    base: str = ""
    """The base model's fingerprint."""
    job: int | None = None
    files: Mapping[str, StoredFile] = field(default_factory=dict)
    others: Mapping[str, Any] = rest()


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionPapers(VersionEntry):
    """All that is kept about a version."""

    track: str = ""
    latest: str | None = None
    previous: str | None = None
    serving: str | None = None
    """As in ``Roles``: which versions of the track these are."""
    ancestors: tuple[str, ...] = ()
    """The versions that it was trained on top of, newest first."""
    bytes: int = 0
    manifest: Manifest = Manifest()
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """How it was made: plan, training, hardware, libraries; see ``metadata.json`` in its folder."""
    calibration: Mapping[str, Any] | None = None
    """How sure it is against how right; ``null`` before ``lorad calibrate``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Why a candidate became a version, or why it did not."""

    version: str
    """A version, or ``job-N`` for a rejected candidate."""
    promoted: bool
    promote: bool = False
    """What the judge said: a candidate may be promoted by force."""
    reasons: tuple[str, ...] = ()
    """One sentence a check, with its numbers; a failed one begins with ``failed:``."""
    failed: tuple[str, ...] = ()
    """The names of the checks that failed."""
    evaluation: Evaluation | None = None
    today: Verdict | None = None
    """What the judge would say by today's settings, where it would decide otherwise; it changes nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangedAnswer(ShownExample):
    """An example that one version answers right and another does not."""

    a_right: bool
    b_right: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """What two versions answer differently."""

    a: str
    b: str
    changed: tuple[ChangedAnswer, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreMatrix(Retention):
    """The scores of datasets (columns) at every version (row), and the four numbers of continual learning."""

    versions: tuple[str, ...]
    datasets: tuple[str, ...]
    matrix: tuple[tuple[float | None, ...], ...]
    """``null`` where a dataset was not tested."""
    counts: tuple[tuple[tuple[int, ...] | None, ...], ...] = ()
    """The same as right answers and all answers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionMatrix(ScoreMatrix):
    """Recall of every dataset (column) at every version (row), and beside it how many facts are in the answers."""

    facts_other: ScoreMatrix | None = None
    """The share of facts when asked in other words, weights only; ``null`` where no dataset brought other words."""
    facts_other_served: ScoreMatrix | None = None
    """The same as it is served: with what the index finds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pinned:
    """A version that limits do not remove, or do again."""

    version: str
    pinned: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Tagged:
    """A version that got a name of its own, or lost it."""

    version: str
    tag: str
    removed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruned:
    """The versions that were removed, or would be, each with the reason."""

    pruned: Mapping[str, str]
    dry_run: bool


# -- memory


@dataclass(frozen=True, slots=True, kw_only=True)
class Datasets:
    """The datasets in memory, in order of arrival."""

    datasets: tuple[DatasetCounts, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExamplesPage:
    """A page of memory's examples, as rows of a file that the inbox reads; the last page is empty."""

    examples: tuple[Mapping[str, Any], ...]
    """``provenance.row`` of the last one is what to ask the next page ``after``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Remains:
    """What holds forgotten words, and what becomes of it."""

    versions: Mapping[str, tuple[str, ...]]
    """Each with what keeps it from being pruned: latest, previous, pinned, tags."""
    copies: tuple[str, ...]
    """Folders of the home that are copies of such versions."""
    files: tuple[str, ...]
    """Names of the dropped files that brought the words."""
    restarted: tuple[int, ...]
    """Jobs whose sessions run, and begin anew without them."""
    removed: tuple[int, ...]
    """Jobs whose kept candidates, checkpoints and logs go."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forgotten:
    """What was removed from memory on purpose, or would be, and what still holds it."""

    forgotten: int
    """How many examples."""
    dry_run: bool
    held: Remains | None = None
    told: str = ""
    """The same in sentences."""
    examples: tuple[ShownExample, ...] = ()
    """The first few, before they are forgotten."""
