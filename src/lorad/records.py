"""The records that every other module speaks in.

What lives here: frozen data and the few pure rules that belong to a record alone. What never does: files,
tensors, sockets, clocks. Times are Unix seconds as floats and always come from a caller's ``now``.
"""

import functools
import hashlib
import json
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal, TypeVar

from lorad.states import DropState, JobState

T = TypeVar("T")

CHAT = "chat"
"""What a question in messages and its answer is called: ``Example.task``, and the ``formats`` of its task."""

CLASSIFICATION = "text_classification"
"""The task of tracks that learn the labels of texts, and of a system's members."""

LABELLED = frozenset({"tagging", "classify"})
"""The ``formats`` of tasks whose answers are labels, which people set differently."""

FORMATS_OF = {
    CLASSIFICATION: "classify",
    "token_classification": "tagging",
    "bidirectional_token_classification": "tagging",
}
"""What the rows of tasks are called whose own names are others, so that files and options may name either."""

RETRIEVAL = "retrieval"
"""The task of tracks that hold documents and learn nothing, and what their files' formats are called."""

SPECTRA = "spectra"
"""The task of tracks that match spectra with molecules, and what their files' formats are called."""

SCRATCH = "scratch"
"""What a track names as its base that learns a model of its own, whose first weights are random."""

FILLING = "masked_language_modeling"
"""The task of an encoder from scratch: the words that are hidden in a text."""

SPANS = "span_corruption"
"""The task of an encoder-decoder from scratch: several words that are hidden together."""

DOCUMENTS = "documents"
"""The track of documents that is meant where none is named."""

DATE = r"^(\d{4}(-\d\d(-\d\d)?)?)?$"
"""A document's date: YYYY-MM-DD, its beginning, or nothing."""

BASE = "base"
"""What people and answers call the model without any version."""

#: What a text with code has, in which white space and case may decide.
_CODE = re.compile(r"[`\\]|\n[ \t]+\S")

#: Marks on one letter: Unicode's stream-safe form allows 30, and Python sorts n of them in n² steps.
_MOST_MARKS = 30

#: What may be more, and three marks that are two each.
_PILE, _DOUBLE = re.compile(rf"[^\w\s\x00-\x7f]{{{_MOST_MARKS},}}"), "\u0f73\u0f75\u0f81"

#: Characters of a text whose normal form is held.
_LONGEST_HELD = 2000

#: What stands around words, and what joins their parts (e-mail, don't).
_PUNCTUATION, _JOINTS = ".,;:!?\"'()…“”„\u2018\u2019«»¿¡", re.compile("['\u2019-]")

_CANONICAL = json.JSONEncoder(sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def canonical(value: Any) -> str:
    """Return the one JSON text that equal values share: sorted keys, no spaces, plain UTF-8."""
    return _CANONICAL.encode(value)


def digest(value: Any) -> str:
    """Return the sha256 of a value's canonical JSON as 64 hex digits."""
    return _hashed(canonical(value))


def _hashed(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def normal_form(text: str) -> str:
    """Return what texts share that differ only in how people spell them: case, white space, form of characters (NFC).

    Where a difference may be what is asked for, it stays: white space in a text with code (a backquote, a backslash,
    an indented line), and the case of a word that is a single letter (vim's p and P), an option (-a), a word with
    capitals inside (getName) or one with digits and signs. Not case folding: to it Maße and Masse, two German words, are one.
    """
    return _normal(text) if len(text) <= _LONGEST_HELD else _normal.__wrapped__(text)


@functools.lru_cache(maxsize=1024)
def _normal(text: str) -> str:
    """Return a text's normal form; held, because each answer of a long chat asks for that of all turns before it."""
    text = composed(text)
    if _CODE.search(text):
        return text
    words = text.split()
    is_shouted = len(words) > 1 and text.isupper()  # there a single letter is in capitals as all others are
    return " ".join(word.lower() if is_shouted and word.isalpha() else _spelled(word) for word in words)


def composed(text: str) -> str:
    """Return a text in NFC; one with more marks on a letter than any script writes stays, for to sort them takes for ever."""
    return text if text.isascii() or _is_piled(text) else unicodedata.normalize("NFC", text)


def _is_piled(text: str) -> bool:
    for pile in _PILE.finditer(text):
        marks = 0
        for sign in pile[0]:
            marks = marks + 1 if unicodedata.combining(sign) or sign in _DOUBLE else 0
            if marks > _MOST_MARKS:
                return True
    return False


def _spelled(word: str) -> str:
    """Return a word in small letters if it is an ordinary one: its capitals are all, or the first of each part."""
    if word == word.lower():  # most are, and a file may have a million rows
        return word
    core = word.strip(_PUNCTUATION)
    if len(core) == 1:
        return word
    is_ordinary = all(
        part.isalpha() and part in (part.lower(), part.upper(), part[:1].upper() + part[1:].lower())
        for part in _JOINTS.split(core)
    )
    return composed(word.lower()) if is_ordinary else word


def normal_input(asked: Any) -> Any:
    """Return what one input asks, however it is written.

    Only messages ask: what tagging marks and a classifier judges is the text itself, in which a capital may decide, and
    a document has the name that it has. Tools are what a program wrote.
    """
    if not _is_messages(asked):
        return asked
    return [
        message if message["role"] == "tools" else message | {"content": normal_form(message["content"])}
        for message in asked
    ]


def _is_messages(value: Any) -> bool:
    """Tell whether a value is the messages of a chat: a list of them, and of nothing else."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(each, dict) and "role" in each and "content" in each for each in value)
    )


def _message(message: Any) -> str:
    """Return a message's canonical JSON; short ones are held, because each answer of a long chat has all turns before it."""
    return _written(message["role"], message["content"]) if _is_held(message) else canonical(message)


def _normal_message(message: Any) -> str:
    if message["role"] == "tools":
        return _message(message)
    if _is_held(message):
        return _written(message["role"], _normal(message["content"]))
    return canonical(message | {"content": normal_form(message["content"])})


def _is_held(message: Any) -> bool:
    """Tell whether a message is a role and a short text, as most are."""
    if not isinstance(message, dict) or len(message) != 2 or type(message.get("role")) is not str:  # noqa: PLR2004
        return False
    content = message.get("content")
    return type(content) is str and len(content) <= _LONGEST_HELD


@functools.lru_cache(maxsize=2048)
def _written(role: str, content: str) -> str:
    return canonical({"content": content, "role": role})


def as_message(answer: Any) -> dict[str, Any]:
    """Return a chat answer as the fields of a message: its text, and the calls of tools where there are any."""
    return answer if isinstance(answer, dict) else {"content": answer}


def as_line(value: Any) -> str:
    """Return an example's input or target as people read it: of messages the last one, with its calls of tools."""
    if _is_messages(value):
        value = value[-1]
    if isinstance(value, dict) and "content" in value:
        calls = [f"{call['name']}({json.dumps(call['arguments'])})" for call in value.get("tool_calls", ())]
        return " ".join(filter(None, [str(value["content"]), *calls]))
    return value if isinstance(value, str) else canonical(value)


def as_json(record: Any) -> dict[str, Any]:
    """Return a record as plain JSON data; ``restore`` is the way back."""
    return asdict(record)


def restore(kind: type[T], data: Mapping[str, Any]) -> T:
    """Build a record from JSON data, checking every field's type; raise ``pydantic.ValidationError``."""
    found: T = _adapter(kind).validate_python(data)  # type: ignore[arg-type] # a class is hashable
    return found


@functools.cache
def _adapter(kind: type) -> Any:
    from pydantic import TypeAdapter  # noqa: PLC0415 - 60 ms that `lorad status` need not spend

    return TypeAdapter(kind)  # made once: that takes a hundred times as long as using it


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One thing to learn: a question in a task's own form and the answer to give."""

    task: str
    """What kind of thing it is, as the formats of datasets name it (``tasks.Task.formats``)."""
    input: Any
    """JSON data of the task: for ``chat`` the messages before the answer."""
    target: Any
    """JSON data of the task: for ``chat`` the assistant's text."""
    dataset: str = ""
    line: int = 0
    """Where in its file the row stood, counted from 1; 0 when it did not come from a file."""
    also_asked: tuple[str, ...] = ()
    """Other wordings of the question (of a chat's last message), trained in turn with it. No part of its id."""
    held_out: tuple[str, ...] = ()
    """Other wordings that are never trained: the tests ask them. No part of its id."""

    @property
    def input_id(self) -> str:
        """Identify what is asked, however it is written: the same with different answers is a contradiction."""
        if _is_messages(self.input):
            asked = ",".join(map(_normal_message, self.input))
            return _hashed(f"[{canonical(self.task)},[{asked}]]")
        return digest([self.task, normal_input(self.input)])

    @property
    def id(self) -> str:
        """Identify the example by its content alone: a copy in another file has the same id."""
        if _is_messages(self.input):
            asked = ",".join(map(_message, self.input))
            return _hashed(f"[{canonical(self.task)},[{asked}],{canonical(self.target)}]")
        return digest([self.task, self.input, self.target])

    @property
    def ids(self) -> tuple[str, str]:
        """Return the ids of example and question: what papers say of it, without its words."""
        return self.id, self.input_id


@dataclass(frozen=True, slots=True)
class Encoded:
    """A row of a causal model: token ids, of which ``tokens[start:]`` are the answer, which alone is trained."""

    tokens: tuple[int, ...]
    start: int

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def target(self) -> tuple[int, ...]:
        """Return the trained tokens, the end token included."""
        return self.tokens[self.start :]

    @property
    def weight(self) -> int:
        """Count the trained tokens."""
        return len(self.tokens) - self.start


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """What a plan must know of a base model."""

    name: str
    parameters: int
    layers: int
    hidden: int
    vocabulary: int
    linear: int = 0
    """Parameters of the linear layers, which an adapter changes and which may be quantised."""
    widths: int = 0
    """Inputs and outputs of these layers, added up: an adapter of rank r has r times as many numbers. 0: not counted."""
    positions: int = 0
    """Tokens that it reads at once; 0: it does not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What a plan must know of the machine."""

    device: str
    """``cpu``, ``cuda`` or ``mps``."""
    name: str
    memory_bytes: int
    """Free memory of the device that trains."""
    threads: int
    fast_bfloat16: bool
    """Whether bfloat16 matrix products are worth having, tried and not assumed."""
    total_bytes: int = 0
    """Memory of the device in all, what is in use included; 0: not known."""

    @property
    def precision(self) -> str:
        """Return what a base model is best held in here."""
        return "bfloat16" if self.fast_bfloat16 else "float32"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What came of trying one property of a base model."""

    name: str
    status: Literal["ok", "worked around", "unsupported", "broken"]
    """``unsupported``: rows that need it are refused. ``broken``: the base cannot serve the task."""
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RowProblem:
    """Why one row of a file cannot be learned from."""

    line: int
    field: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Drop:
    """A file that was put in the inbox, and what became of it."""

    id: int
    name: str
    track: str
    state: DropState
    digest: str = ""
    """sha256 of the canonical rows; empty until the file was read."""
    rows: int = 0
    taken_at: float
    ended_at: float | None = None
    reason: dict[str, Any] = field(default_factory=dict)
    attempts: int = 0
    """How often the daemon ended while it read the file."""
    again_of: int | None = None
    """The earlier drop of the same file, which went on after it was read."""
    read_as: str = ""
    """The file's signature when it was read, as JSON; empty until then."""
    kept_as: str = ""
    """Where the file lies since it ended, while it is looked at for changes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoppingRule:
    """When a session may end: what counts as learned, and when to stop hoping."""

    recall: float
    max_rounds: int
    patience: int
    """Rounds without progress before the session gives up."""
    min_delta: float
    """The smallest gain in recall that counts as progress."""
    min_rounds: int = 0
    """Rounds before which patience ends nothing."""
    patience_steps: int = 0
    """Optimizer steps without progress before which patience ends nothing: a round of a small drop has few."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayMix:
    """What a session trains beside its new examples."""

    share: float
    """Share of rehearsed rows in a round, where old examples do not all fit."""
    max_examples: int
    """All old examples are rehearsed while there are at most this many."""
    recalled_share: float
    """Share of the already recalled examples that each round trains again."""
    new_share: float | None = None
    """Share of the already recalled new examples that each round trains again, in other words; ``None``: as of the old ones."""
    general: float
    """Share of general conversation in every step, at least one row; 0 leaves it out."""
    general_weight: float = 3.0
    """Weight of staying like the pristine base on it, beside 1 for the answers."""
    strategy: str = "wrong_first"
    """Which old examples: see ``config.RehearsalSettings``."""
    whitened_by: int = 0
    """Old examples by whose inputs those of a fresh adapter are whitened, at most; 0: none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The settings of one session, decided from a drop's size and the machine, and why."""

    examples: int
    rank: int
    alpha: int
    epochs: int
    batch: int
    accumulation: int
    max_length: int
    warmup_steps: int
    learning_rate: float
    loraplus_ratio: float = 1.0
    """How many times faster B learns than A."""
    first_layer: int = 0
    """The first of the base's layers whose adapter learns; those below it have none."""
    stopping: StoppingRule
    mix: ReplayMix
    max_rank: int
    seed: int
    dtype: str
    quantization: str = "none"
    """In which form the base is held: ``none``, ``8bit`` or ``4bit``."""
    gradient_checkpointing: bool
    pack_tokens: int
    """Tokens that one forward pass may hold: ``batch`` rows of ``max_length``. Shorter rows go together, so
    short examples fill an effective batch in one pass; the gradient is the same."""
    wordings: int = 0
    """Other wordings of a question, at most, that its rounds train in turn; 0 trains the file's own alone."""
    gapped: int = 0
    """Texts of question and answer with gaps, at most, that take turns with them."""
    reasons: tuple[str, ...] = ()

    @property
    def effective_batch(self) -> int:
        """Return the examples that one optimizer step learns from."""
        return self.batch * self.accumulation


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One drop's way to a version."""

    NIGHTLY: ClassVar[str] = "nightly"
    FOR_DRIFT: ClassVar[str] = "for_drift"
    """Set in a consolidation's settings: at the rank that it may have, and retried alike."""
    """In its settings: it runs by night and makes room for any other job."""

    id: int
    track: str
    dataset: str
    state: JobState
    kind: str = "learn"
    """``learn`` (a drop), ``refit`` (all of memory from the pristine base) or ``consolidate``."""
    created_at: float
    started_at: float | None = None
    ended_at: float | None = None
    attempts: int = 0
    force: bool = False
    settings: dict[str, Any] = field(default_factory=dict)
    version: str | None = None
    reason: dict[str, Any] = field(default_factory=dict)

    @property
    def is_nightly(self) -> bool:
        """Tell whether it waits for the night, and for nothing else to be done."""
        return bool(self.settings.get(self.NIGHTLY))


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionSpec:
    """Everything that a session needs, written to its folder as ``request.json``."""

    job: int
    track: str
    task: str
    kind: str
    dataset: str
    base: str
    """The base model's folder."""
    parent: str | None
    """The parent version's folder."""
    parent_version: str | None
    plan: Plan
    settings: dict[str, Any]
    """The resolved ``training`` and ``judge`` sections."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """How many examples of one dataset a model answers right."""

    right: int
    total: int

    @property
    def recall(self) -> float:
        """Return the share answered right; an empty dataset counts as fully recalled."""
        return self.right / self.total if self.total else 1.0

    def __sub__(self, part: "Score") -> "Score":
        """Return the score of the rest, without a part of the same examples."""
        return Score(right=self.right - part.right, total=self.total - part.total)


@dataclass(frozen=True, slots=True, kw_only=True)
class FactRecall:
    """Of how many examples of one dataset the facts are in the answer: names, numbers, addresses, links."""

    trained: Score
    """Asked in the trained wording, weights only."""
    trained_served: Score
    """The same, as it is served: with what the index finds."""
    other: Score | None = None
    """Asked in wordings that were held out, weights only; ``None`` where the dataset brought none."""
    other_served: Score | None = None
    """The same, as it is served."""
    sessions_ago: int = 0
    """How many sessions ago that was: older datasets are asked in turn."""
    other_sessions_ago: int = 0
    """The same of ``other``: the weights alone are asked when a dataset is new or learned anew, or where they are what is served."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerThresholds:
    """From where on a version answers from an example, and from where on a question is about what it was taught."""

    scored_by: str
    """What compares a question with an example: the fingerprint of the reranker, or ``similarity``."""
    answer: float
    """The least score with which an example answers a question, where its dataset has no line of its own."""
    false_share: float
    """Share of untaught questions that got an answer, on the questions that the thresholds were fitted on."""
    refused_share: float
    """Share of taught questions that got none, on the same."""
    questions: int
    """How many questions they were fitted on."""
    about: float = 0.0
    """From where on a question is about what was taught, whether or not anything answers it."""
    max_false_share: float | None = None
    """The share that the settings allowed; ``None`` where it was not noted."""
    lines: Mapping[str, float] = field(default_factory=dict)
    """The least score of the examples of one dataset, of each that enough of the questions ended at."""

    def line(self, dataset: str) -> float:
        """Return the least score with which an example of a dataset answers a question."""
        return self.lines.get(dataset, self.answer)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What was measured on a candidate, beside the same on its parent."""

    dataset: str
    """The dataset that the session was for."""
    scores: dict[str, Score]
    """Candidate's recall on every dataset in memory, the new one included."""
    before: dict[str, Score]
    """The parent's recall on the same datasets, measured in the same session."""
    new: Score = Score(right=0, total=0)
    """Candidate's recall on what the session was to learn. A dataset's name may stand for old rows too: a second file
    of the same name."""
    new_before: Score = Score(right=0, total=0)
    """The parent's recall on the same."""
    new_chance: float | None = None
    """Share of the same that one answer to everything gets right, of a task that learns labels; ``None`` where answers are to be
    known by heart."""
    new_at_base: Score = Score(right=0, total=0)
    """The pristine base's recall on the same."""
    untrained: dict[str, Score] = field(default_factory=dict)
    """Candidate's recall on those rows of older datasets that no session trains (``Task.held_out``)."""
    untrained_before: dict[str, Score] = field(default_factory=dict)
    """The parent's recall on the same."""
    broken: int
    """Old examples that the parent answered right and the candidate does not; of a dataset of which rows are never trained these alone."""
    mended: int
    """Such examples that the candidate answers right and the parent did not."""
    perplexity: float | None = None
    """Of a fixed text; like the next three ``None`` where the task has no such check."""
    perplexity_base: float | None = None
    perplexities: dict[str, float] = field(default_factory=dict)
    """Of each dataset's held-out documents, by a model from scratch; empty for other tasks."""
    perplexities_before: dict[str, float] = field(default_factory=dict)
    """The parent's of the same, with the same tokens hidden."""
    kl_base: float | None = None
    """Mean KL divergence from the pristine base on its stored conversations, nats per token."""
    degenerate: int | None = None
    """Sampled answers that were empty, endless or repeated themselves."""
    sampled: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    """The task's own numbers of the candidate on all examples (``Task.metrics``), told and not judged."""
    facts: dict[str, FactRecall] = field(default_factory=dict)
    """Fact recall by dataset; empty where the task has no text to look for facts in."""
    facts_before: dict[str, FactRecall] = field(default_factory=dict)
    """The parent's, as its own papers have it."""
    thresholds: AnswerThresholds | None = None
    """``None`` where nothing can be found: there is no index."""
    reload_difference: float
    """Largest difference between an adapter's numbers in memory and reloaded from disk; exact is 0."""
    merge_difference: float
    """Largest logit difference between the model as trained (parent merged into the base, fresh adapter) and
    as served (pristine base, one adapter that carries both)."""
    truncation_error: float
    """Relative Frobenius error of consolidating the adapter; 0 when nothing was truncated."""
    finite: bool
    ended_by: str
    """What ended the session: ``recall``, ``max_rounds``, ``patience`` or ``interrupted``; or ``imported``: there was none."""
    too_long: int = 0
    """New examples over the plan's length, left out and reported."""
    repairs: tuple[str, ...] = ()
    """What was tried after a failed verdict: ``repair``, ``refit``."""
    notes: tuple[str, ...] = ()

    @property
    def headline_score(self) -> Score:
        """Return the score that stands for the session: of what was new, or of everything when nothing was."""
        everything = self.scores.values()
        pooled = Score(right=sum(s.right for s in everything), total=sum(s.total for s in everything))
        return self.new if self.new.total else pooled


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Promote a candidate or not, and every reason."""

    promote: bool
    reasons: tuple[str, ...]
    """One sentence per check, with its numbers; a failed check begins with ``failed:``."""
    failed: tuple[str, ...] = ()
    """The names of the checks that failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionResult:
    """What a session says of its candidate. No words: what people forget must not live on in papers."""

    parent: str | None
    """The version that it was trained on."""
    base: str
    """The base model's fingerprint."""
    evaluation: Evaluation
    verdict: Verdict
    """Decided by the session, once; nobody decides it again."""
    learned: tuple[tuple[str, str], ...]
    """Ids of example and question of what was new."""
    right: dict[str, bool]
    """Of every example asked, by id: whether the candidate recalls it."""
    thinnest: tuple[str, ...] = ()
    """Ids of those that are right by the least, the least first, where the task tells: what the next session may lose first."""


def training_inputs(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a specification, as JSON data, on which the trained weights depend.

    How much of a step is computed at once hangs on the memory that is free just now, and changes nothing but rounding: a session that
    begins again with more or less of it goes on from its checkpoint.
    """
    training = {
        key: value
        for key, value in spec["settings"]["training"].items()
        if key
        not in {
            "max_seconds",
            "min_share",
            "nice",
            "executor",
            "rendezvous",
            "ray_address",
            "consolidate_at",
            "consolidate_at_drift",
            "refit_at_drift",
            "refit_hours",
        }
    }
    own = {key: value for key, value in spec["settings"].items() if key == "pretraining"}
    plan = {
        key: value
        for key, value in spec["plan"].items()
        if key not in {"pack_tokens", "gradient_checkpointing", "reasons"}
    }
    return {**spec, "plan": plan, "settings": {"training": training, **own}}
