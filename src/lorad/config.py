"""The settings: one frozen tree, read from YAML and checked as a whole.

What lives here: every setting, its default and its meaning.
What never does: acting on a setting. A component gets its own section and nothing else.

Later sources override earlier ones: built-in defaults, ``configs/default.yaml`` of the home, ``--config FILE``, ``--set k=v``.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from lorad.errors import ConfigError, did_you_mean
from lorad.home import Home
from lorad.records import CLASSIFICATION, FILLING, RETRIEVAL, SCRATCH, SPANS, SPECTRA, StoppingRule

Share = Annotated[float, Field(ge=0, le=1)]
Seconds = Annotated[float, Field(ge=0, le=31_536_000)]
Limit = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1, le=2**31 - 1)]
CountOrZero = Annotated[int, Field(ge=0, le=2**31 - 1)]
Bytes = Annotated[int, Field(ge=1, le=2**63 - 1)]
Days = Annotated[int, Field(ge=1, le=36_500)]
Parallel = Annotated[int, Field(ge=1, le=4096)]
Rounds = Annotated[int, Field(ge=1, le=10_000)]
Rate = Annotated[float, Field(ge=1e-9, le=10)]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
TimeOfDay = Annotated[str, Field(pattern=r"^([01]\d|2[0-3]):[0-5]\d$")]
HoursOfDay = Annotated[str, Field(pattern=r"^([01]\d|2[0-3]):[0-5]\d-([01]\d|2[0-3]):[0-5]\d$")]


#: A track's name is a folder in ``models/`` and in ``inbox/``, where lorad has folders of its own.
RESERVED = ("base", "drops", "processing", "done", "failed")


def _not_reserved(name: str) -> str:
    if name in RESERVED:
        raise ValueError(f"lorad uses the folder {name} itself; choose another name")
    return name


TrackName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$"), AfterValidator(_not_reserved)]


class Section(BaseModel):
    """A frozen part of the settings; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class InboxSettings(Section):
    """When a dropped file is complete, and how large it may be."""

    settle_seconds: Seconds = 5.0
    """A file is read once its size and modification time have not changed for this long."""
    rescan_seconds: Seconds = 30.0
    """The inbox is scanned this often, besides file system events; every second where there are no events."""
    max_queued_files: Count = 1000
    """Accepted files that are not learned yet; while there are this many, further files stay in the inbox."""
    max_bytes: Bytes = 1_000_000_000
    """Maximum size of a file."""
    max_unpacked_bytes: Bytes = 1_000_000_000
    """Maximum size of a compressed file once unpacked."""
    max_rows: Count = 1_000_000
    """Maximum number of rows of a file."""
    max_row_bytes: Annotated[int, Field(ge=1, le=1_000_000_000)] = 1_000_000
    """Maximum size of one row in its file."""
    max_depth: Count = 32
    """Maximum nesting depth of a row, including texts inside it that are read as JSON."""
    max_columns: Count = 1000
    """Maximum number of fields of a row and of columns of a table."""
    max_expanded_row_bytes: Annotated[int, Field(ge=1, le=1_000_000_000)] = 16_000_000
    """Maximum size of the examples made from one row: each answer of a conversation repeats all turns before it."""
    max_expanded_bytes: Bytes = 4_000_000_000
    """Maximum size of the examples made from one file."""
    max_bad_share: Share = 0.05
    """A file with a smaller share of bad rows is accepted without them; with this share or more it fails."""
    reader_bytes: Annotated[int, Field(ge=128 << 20)] = 2_000_000_000
    """Memory limit of the process that reads a file; a file that needs more fails."""
    reader_silent_seconds: Annotated[float, Field(gt=0)] = 60.0
    """That process must report progress (a row, for example) within this time, or the file fails."""
    reader_seconds: Annotated[float, Field(gt=0)] = 600.0
    """Maximum time to read one file; then the file fails."""
    keep_done_days: Days | None = None
    """Days after which learned files are removed from ``done/``; ``None`` keeps them."""
    preferences: Literal["refuse", "learn_chosen"] = "refuse"
    """Preference rows (DPO, KTO): ``learn_chosen`` trains on the chosen answer only, never on the rejected one."""


class SizeRow(Section):
    """One row of the planner's table: the settings for files of fewer than ``below`` examples."""

    below: Count | None = None
    """``None`` in the last row: any number."""
    rank: Parallel
    """Rank of the fresh adapter."""
    alpha: Annotated[int, Field(ge=1, le=65_536)]
    """LoRA alpha; the scale is alpha / rank."""
    epochs: Rounds
    """Rounds before which patience does not end a session."""
    batch: Parallel
    """Rows of ``max_length`` that one pass holds; shorter rows share it."""
    accumulation: Parallel
    """Passes per optimizer step; the effective batch is ``batch`` x ``accumulation``."""
    max_length: Annotated[int, Field(ge=1, le=1_048_576)]
    """Tokens that a row may have; the planner raises it where memory allows."""


class RateRow(Section):
    """The learning rate for models of fewer than ``below_parameters`` parameters, up to alpha 32; see ``planner``."""

    below_parameters: float | None = None
    """``None`` in the last row: any number."""
    learning_rate: Rate
    """Learning rate of the fresh adapter, at its highest."""


class StoppingSettings(Section):
    """When a session ends; see ``records.StoppingRule``."""

    recall: Share = 0.98
    """Recall on the new data at which a session ends, if no old dataset has lost recall."""
    max_rounds: Rounds = 30
    """Maximum number of rounds (epochs)."""
    patience: Rounds = 3
    """Rounds without progress after which a session ends, but not before the epochs of the planner's table."""
    min_delta: Share = 0.01
    """The smallest gain in recall that counts as progress."""
    patience_steps: Count = 48
    """Minimum number of optimizer steps without progress; a round of a small file has few."""

    def as_rule(self) -> StoppingRule:
        """Return the record that the plan carries."""
        return StoppingRule(**self.model_dump())


class PlannerSettings(Section):
    """How the size of a dataset determines a session's hyperparameters."""

    table: tuple[SizeRow, ...] = (
        SizeRow(below=100, rank=8, alpha=16, epochs=10, batch=2, accumulation=4, max_length=512),
        SizeRow(below=500, rank=16, alpha=32, epochs=5, batch=2, accumulation=4, max_length=640),
        SizeRow(rank=32, alpha=64, epochs=3, batch=4, accumulation=2, max_length=768),
    )
    learning_rates: tuple[RateRow, ...] = (
        RateRow(below_parameters=1e8, learning_rate=5e-4),  # MiniLM at 1e-3 ends at one answer to everything
        RateRow(below_parameters=2e9, learning_rate=1e-3),
        RateRow(learning_rate=3e-4),
    )
    loraplus_ratio: Annotated[float, Field(ge=1, le=1000)] = 4.0
    """Learning rate of an adapter's B divided by that of its A (LoRA+, Hayou et al. 2024). Where labels are learned it is 1."""
    wordings: Annotated[int, Field(ge=0, le=64)] = 8
    """Other wordings of a question that are trained in turn with the file's own; 0: none."""
    gapped: Annotated[int, Field(ge=0, le=64)] = 8
    """Texts of question and answer with gaps, without the fact, that are trained in turn with them; 0: none."""
    trained_layers: Annotated[float, Field(gt=0, le=1)] = 0.4
    """Share of a chat model's layers whose adapter learns, the last ones; 1: all. Models of fewer than 12 layers train all."""
    warmup_share: Share = 0.1
    """Warm-up takes min(``warmup_share`` x number of examples, ``warmup_max``) steps."""
    warmup_max: CountOrZero = 50
    """Maximum number of warm-up steps."""
    stopping: StoppingSettings = StoppingSettings()


class RehearsalSettings(Section):
    """How old examples are trained again along with the new ones."""

    share: Share = 0.5
    """Maximum share of old and already recalled examples in a round: 0.5 is as many as new ones."""
    max_examples: CountOrZero = 2000
    """With at most this many old examples, all that are not recalled are trained; with more, ``share`` limits them."""
    strategy: Literal["wrong_first", "balanced", "all"] = "wrong_first"
    """``wrong_first``: examples that are not recalled, then the least trained. ``balanced``: the least trained, recalled
    or not. ``all``: every old example in every round."""
    recalled_share: Share = 0.25
    """Share of the already recalled examples that each round trains again."""
    new_share: Share = 0.5
    """Share of the already recalled new examples that each round trains again if ``planner.wordings`` or ``gapped`` > 0; never below
    ``recalled_share``."""
    whitened_by: CountOrZero = 128
    """Old examples by whose inputs those of a fresh adapter are whitened, where there are many (256), so that what is learned keeps away
    from what they have in common; 0: none."""
    general_share: Share = 0.1
    """Share of general conversation in every step, distilled from the pristine base."""
    general_share_max: Share = 0.5
    """The same share when the parent has used up all of ``judge.max_perplexity_rise``; interpolated in between."""
    general_weight: Annotated[float, Field(ge=0, le=1000)] = 3.0
    """Weight of the distillation loss; the loss on answers has weight 1."""


class TrainingSettings(Section):
    """How a session runs, in a child process."""

    seed: Seed = 20_261_121
    """Seed of every random number generator; the same seed gives the same adapter."""
    executor: Literal["local", "torchrun", "ray"] = "local"
    """What runs a session. ``local``: one process. ``torchrun``: ``processes`` of them, which train together. ``ray``: the same, on
    a machine that Ray chooses, which shares the home's folder (needs the extra ``ray``)."""
    processes: Parallel = 1
    """Processes of a session on each machine: on CUDA one a card, at most. Another number gives another adapter, by rounding."""
    nodes: Parallel = 1
    """Machines that train a session together by ``torchrun``; all share the home's folder."""
    rendezvous: Annotated[str, Field(pattern=r"^[^\s/:]+:\d{1,5}$")] | None = None
    """Where several machines meet, as ``HOST:PORT`` of the one that runs the daemon (c10d)."""
    ray_address: Annotated[str, Field(pattern=r"^(auto|[^\s/:]+:\d{1,5})$")] | None = None
    """A running Ray cluster, as ``HOST:PORT`` or ``auto``; ``None``: Ray is started on this machine, for each session."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Device of a session; ``auto`` takes a GPU if there is one."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of the base model, for training and answering; ``auto`` uses the faster one on this device."""
    quantize: Literal["auto", "none", "8bit", "4bit"] = "auto"
    """Hold the base's linear layers in 8 or 4 bits, for training and answering (CPU and CUDA; needs bitsandbytes); ``auto``
    does so where two copies of the base would not fit in memory otherwise."""
    gradient_checkpointing: bool | None = None
    """``None``: on when the activations would not fit in memory."""
    threads: Parallel | None = None
    """CPU threads of a session; ``None`` uses all cores, at lower priority than answering."""
    nice: Annotated[int, Field(ge=-20, le=19)] = 10
    """Nice value of a session; 19 yields to everything else."""
    min_share: Annotated[float, Field(ge=0.01, le=1)] = 0.25
    """A session waits while questions are answered on the device that trains, but keeps at least this share of the time
    for itself; 1: it never waits."""
    max_rank: Parallel = 64
    """Maximum rank of the whole adapter; a session that would exceed it truncates the parent's first."""
    consolidate_at: TimeOfDay | None = "03:00"
    """Local time of day at which an adapter of more than half of ``max_rank`` is consolidated; ``None``: never."""
    consolidate_at_drift: Share | None = 0.3
    """Share of ``judge.max_perplexity_rise`` that the serving version may have used up before it is consolidated by night: its effect on
    general text is taken out of it as far as its rows allow, in ``refit_hours`` and while nothing else is to do; ``None`` or 0: never."""
    refit_at_drift: Share | None = 0.5
    """Share of ``judge.max_perplexity_rise`` that the serving version may have used up before everything is learned again from
    the base, by night and while nothing else is to do; ``None`` or 0: never."""
    refit_hours: HoursOfDay = "01:00-06:00"
    """Local hours in which both run; what is not done goes on in the next night."""
    merge_adapters_on_save: bool = True
    """Keep a merged copy of ``latest`` in ``models/<track>/merged``, if there is enough disk space."""
    max_seconds: Seconds = 6 * 3600
    """A session that takes longer is stopped and fails; waiting for answers does not count."""

    @model_validator(mode="after")
    def _check_processes(self) -> Self:
        if self.executor == "local" and self.all_processes > 1:
            raise ValueError("several processes or nodes need executor: torchrun (or ray, on one machine)")
        if self.executor == "ray" and self.nodes > 1:
            raise ValueError("Ray places a session on one machine; set nodes to 1, or executor to torchrun")
        if self.nodes > 1 and self.rendezvous is None:
            raise ValueError(
                "several nodes need a rendezvous, as HOST:PORT of the machine that runs the daemon"
            )
        return self

    @property
    def all_processes(self) -> int:
        """Return how many processes train a session together, on all machines."""
        return self.processes * self.nodes


class JudgeSettings(Section):
    """What a candidate must pass to become ``latest``."""

    min_recall: Share = 0.95
    """Minimum recall on the new data."""
    min_learned: Share = 0.5
    """Of labels and spans, which people set differently, instead: of the new rows that one answer to everything gets wrong, the share
    that must be right."""
    max_lost_examples: CountOrZero = 2
    """Examples that an old dataset may lose, even if they are more than ``max_lost_share``."""
    max_lost_share: Share = 0.02
    """An old dataset may lose at most max(``max_lost_examples``, this share of it)."""
    significance: Share = 0.05
    """Significance level of the exact McNemar test over all old examples."""
    max_perplexity_rise: Limit = 0.15
    """Maximum relative rise of perplexity on a fixed general text, compared with the base."""
    max_corpus_perplexity_rise: Limit = 0.05
    """Maximum relative rise of perplexity on the held-out documents of each earlier dataset, for models from scratch."""
    max_kl: Limit = 1.0
    """Maximum KL divergence from the base on its own general conversation, in nats per token."""
    max_degenerate_share: Share = 0.1
    """Maximum share of sampled answers that are empty, endless or repeat themselves."""
    max_reload_difference: Limit = 1e-6
    """Maximum difference of logits after reloading the candidate from disk."""
    max_merge_difference: Limit = 2.0
    """Maximum difference of logits between training and serving; float32 stays below 0.01, bfloat16 rounds the merged weights."""
    max_truncation_error: Limit = 1.0
    """Maximum share of an adapter that truncation may lose; with 1 only recall decides."""


class PretrainingSettings(Section):
    """How models from scratch learn (``base: scratch``)."""

    epochs: Rounds = 30
    """Maximum number of epochs of a session."""
    batch: Parallel = 16
    """Sequences of ``max_seq_len`` tokens per optimizer step."""
    learning_rate: Rate = 1e-3
    """Learning rate at its highest, behind the warm-up; then it decays along a cosine."""
    continued_learning_rate: Rate = 5e-4
    """The same for further text, on a version that has learned some."""
    weight_decay: Share = 0.01
    """Weight decay of matrices (AdamW)."""
    warmup_share: Share = 0.06
    """Share of the steps of all ``epochs`` that the warm-up takes, at most 500 steps."""
    masked_share: Annotated[float, Field(gt=0, lt=1)] = 0.15
    """Share of the tokens that are hidden, and to be guessed; a decoder hides none."""
    validation_share: Annotated[float, Field(gt=0, le=0.5)] = 0.1
    """Share of a dataset's documents that are never trained and only measured; of fewer than ten documents, of their sequences."""
    early_stopping_patience: Rounds = 3
    """Epochs without improvement after which a session ends."""
    early_stopping_min_delta: Share = 0.01
    """The smallest drop of the loss, in nats per token, that counts as improvement."""
    early_stopping_monitor: Literal["validation", "training"] = "validation"
    """Whose loss is watched: that of the held-out documents, each dataset counting alike, or that of the epoch."""
    tokenizer_bytes: Bytes = 20_000_000
    """The tokenizer is trained on at most so many characters of the first drop, the beginnings of all of its documents. The daemon
    does it: half a second for a million, in which it answers, but takes in no files."""


class EngineSettings(Section):
    """How questions are answered."""

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Device for answering; ``auto`` takes a GPU if there is one."""
    backend: Literal["auto", "builtin", "llamacpp", "vllm"] = "auto"
    """What generates: ``auto`` is ``builtin``, which needs nothing else. ``llamacpp`` needs the package llama-cpp-python (extra
    ``llamacpp``) and serves tracks of chat on Llama models; ``vllm`` is a vLLM server (CUDA)."""
    gguf: Literal["f32", "f16", "q8_0"] = "f16"
    """Precision of the GGUF copy of each version that ``llamacpp`` serves. ``q8_0`` takes half the memory of ``f16``; a version
    that answers its probes otherwise in it is refused."""
    vllm_url: Annotated[str, Field(pattern="^http://")] | None = None
    """Address of a running vLLM server, such as ``http://127.0.0.1:8000``; ``None``: lorad starts one."""
    vllm_command: Annotated[str, Field(min_length=1)] = "vllm serve"
    """Beginning of the command that starts a vLLM server, with your own options; lorad appends the base and what versions need."""
    vllm_start_seconds: Annotated[float, Field(gt=0, le=86_400)] = 600.0
    """Time limit for a vLLM server that lorad starts: it loads and compiles the base before it answers."""
    merge_served: bool = True
    """Hold the version that serves as a merged copy, which answers faster and takes the memory of the weights that its
    adapter changes; without it, or where memory is short, as an adapter on the base."""
    max_batch: Parallel = 16
    """Maximum number of answers of one version that are generated together; further ones wait."""
    prefill_tokens: Count = 256
    """Maximum number of prompt tokens that are read between two tokens of the other answers; fewer, where so many would take longer
    than a fifth of a second."""
    max_cache_bytes: Bytes = 1_000_000_000
    """Memory limit of the attention caches (keys and values) of all answers together; further answers wait. Each version in
    memory also keeps its last prompt, in at most an eighth of this."""
    max_queued_requests: Count = 32
    """Further requests get 503 with Retry-After."""
    max_new_tokens: Count | None = None
    """Default of a request's ``max_tokens``; ``None``: the rest of the context."""
    max_loaded_versions: Count = 3
    """Versions kept in memory; ``latest`` and ``previous`` always are."""
    verify_base: bool = True
    """Hash the base models' files at every start: about one second per GB."""
    strict_environment: bool = False
    """Refuse a version that was made with other packages, another device or precision; otherwise only report it."""
    calibration_check: bool = True
    """At every load, compare a classifier's confidence in its probes with what it was when the version was made; where they
    differ, the version is refused."""


class AnsweringSettings(Section):
    """How a question is answered from what is known."""

    retrieve: bool = True
    """Look for the example that a question asks for; a request switches it off with ``"lorad": {"retrieve": false}``."""
    embedder: str = "auto"
    """The base of kind encoder (in ``models/base``) that compares meanings; ``auto``: ``minilm`` if it was added
    (``lorad base add minilm``), else the track's own base."""
    unknown: Literal["say", "answer"] = "say"
    """A question about what was taught that no example answers: ``say`` so, or let the model ``answer`` all the same."""
    unknown_words: Annotated[str, Field(min_length=1, max_length=1000)] = (
        "I don't know: I was not taught that."
    )
    """What is said then."""
    max_false_share: Share = 0.2
    """Share of untaught questions that may get an answer; each version's threshold is fitted to it."""

    @property
    def refusal(self) -> str | None:
        """Return what is said where no example answers a question about what was taught; ``None``: the model answers."""
        return self.unknown_words if self.unknown == "say" else None


class ServerSettings(Section):
    """The socket and its limits."""

    socket: str = "run/lorad.sock"
    """Path of the socket, relative to the home; its folder has mode 0750, the socket 0660."""
    tcp_port: Annotated[int, Field(ge=1, le=65_535)] | None = None
    """Port on 127.0.0.1 for programs that speak no Unix sockets; they must send the token in the file beside the socket (mode
    0600, ending ``.token``). ``None``: no port."""
    max_body_bytes: Annotated[int, Field(ge=1024, le=1_000_000_000)] = 1_000_000
    """A longer request body gets 413."""
    max_connections: Annotated[int, Field(ge=1, le=65_536)] = 512
    """Simultaneous connections, never more than half of the allowed file descriptors. When all are taken, the oldest idle
    connection is closed for a new one; if none is idle, the new one gets 503."""
    header_seconds: Annotated[float, Field(gt=0, le=3600)] = 10.0
    """Time limit for a client to send its request header."""
    transfer_seconds: Annotated[float, Field(gt=0, le=3600)] = 30.0
    """Time limit for a client to send its request body, and to read what was sent to it."""


#: The tasks that lorad brings along, by the word that settings use: the one list of them. See ``tasks.find``.
TASKS = {
    "chat": "lorad.tasks.chat:Chat",
    CLASSIFICATION: "lorad.tasks.text_classification:TextClassification",
    "token_classification": "lorad.tasks.token_classification:TokenClassification",
    "bidirectional_token_classification": "lorad.tasks.token_classification:BidirectionalTokenClassification",
    SPECTRA: "lorad.tasks.spectra:Spectra",
    FILLING: "lorad.tasks.masked_language_modeling:MaskedLanguageModeling",
    "causal_language_modeling": "lorad.tasks.causal_language_modeling:CausalLanguageModeling",
    SPANS: "lorad.tasks.span_corruption:SpanCorruption",
}

Architecture = Literal["encoder", "decoder", "encoder-decoder"]

#: What a model from scratch of each architecture learns, and what the seed's ``model_type`` calls it.
PRETRAINING: dict[str, str] = {
    "encoder": FILLING,
    "decoder": "causal_language_modeling",
    "encoder-decoder": SPANS,
}
MODEL_TYPES: dict[str, Architecture] = {
    "encoder_only": "encoder",
    "decoder_only": "decoder",
    "transformer": "encoder-decoder",
}


def _is_task(name: str) -> str:
    if name != RETRIEVAL and name not in TASKS and not re.fullmatch(r"\w+(\.\w+)*:\w+", name):
        raise ValueError(
            f"there is no such task; known: {', '.join((*TASKS, RETRIEVAL))}, and a class of yours as module:Class"
        )
    return name


SplitMethod = Literal["paragraph", "sentence", "chunk", "semantic", "regex"]
"""How a document is divided."""


def _is_pattern(pattern: str) -> str:
    try:
        found = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"it is no regular expression: {error}") from None
    if found.match(""):
        raise ValueError("it matches the empty text, and would divide a document anywhere")
    return pattern


class SplitSettings(Section):
    """How documents are divided into chunks, which are what a search finds. Lengths are in tokens of the embedder."""

    method: SplitMethod = "semantic"
    """``semantic``: at headings, sections as they are. ``paragraph``: at blank lines. ``sentence``: at ends of sentences.
    ``chunk``: equal parts, however they are written. ``regex``: before each match of ``pattern``. Tables and code stay whole
    where they fit."""
    pattern: Annotated[str, Field(min_length=1, max_length=1000), AfterValidator(_is_pattern)] | None = None
    """Regular expression of Python's at whose matches ``regex`` begins a chunk; ``^`` and ``$`` match at lines."""
    min_tokens: Annotated[int, Field(ge=0, le=8192)] = 32
    """A shorter chunk is joined with the next one."""
    max_tokens: Annotated[int, Field(ge=8, le=8192)] = 200
    """A longer one is divided: between paragraphs, else sentences, else words. The headings above a chunk are embedded with it;
    MiniLM reads 256 tokens in all."""
    overlap_tokens: Annotated[int, Field(ge=0, le=4096)] = 32
    """What ``chunk`` repeats of the chunk before."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.method == "regex" and self.pattern is None:
            raise ValueError("the method regex needs a pattern")
        if not (self.min_tokens <= self.max_tokens and self.overlap_tokens < self.max_tokens):
            raise ValueError("min_tokens must be at most, and overlap_tokens less than, max_tokens")
        return self


class DocumentSettings(Section):
    """How documents are divided, searched, and put before a question. Tracks with ``task: retrieval`` hold them."""

    split: SplitSettings = SplitSettings()
    search: Literal["hybrid", "bm25", "embeddings"] = "hybrid"
    """``bm25`` compares words, ``embeddings`` meanings, ``hybrid`` does both. Without an encoder (``lorad base add minilm``) it is
    ``bm25``."""
    fusion: Literal["rank", "weighted"] = "weighted"
    """How ``hybrid`` joins both: by their ranks (reciprocal rank fusion, Cormack et al. 2009), or by their scores, weighted."""
    embeddings_weight: Share = 0.8
    """Weight of the embeddings; BM25 has the rest."""
    passages: Annotated[int, Field(ge=1, le=50)] = 4
    """Passages that stand before a question, as far as the context has room."""
    passage_share: Share = 0.6
    """Share of the context that they may take."""
    min_relevance: Annotated[float, Field(ge=0, le=1.5)] = 0.45
    """Cosine of question and passage, plus half the share of the question's words that the passage holds, from which it is
    relevant; without an encoder that share alone."""
    answer: Literal["auto", "quote", "generate"] = "auto"
    """``generate``: the model answers behind the passages. ``quote``: the answer is the sentence, with its paragraph if that is short,
    the list item or the table row of them that answers best, word for word. ``auto``: ``quote`` where the base has fewer than a billion parameters, for it copies badly."""
    min_quote_score: Annotated[float, Field(ge=-100, le=100)] = 0.0
    """Score from which a piece is quoted, of lorad's reranker, the encoder and the words together; a higher one quotes less, and less
    that is wrong: from -1 to 2 covers what is of use."""
    prefer: Literal["facts", "passages"] = "facts"
    """Where a learned example answers a question and passages are found as well: which one answers."""
    not_found_words: Annotated[str, Field(min_length=1, max_length=1000)] = (
        "I found nothing about that in the documents."
    )
    """What is said where a request asks for documents and none is relevant."""


class ModelSettings(Section):
    """The sizes of a model from scratch."""

    model_type: Literal["encoder_only", "decoder_only", "transformer"] | None = None
    """Another way to name the track's ``architecture``."""
    vocab_size: Annotated[int, Field(ge=300, le=1_000_000)] = 8192
    """Maximum number of tokens of the vocabulary; a short text gives fewer. An encoder-decoder has 358 at least: each byte, and a mark for
    each gap."""
    d_model: Annotated[int, Field(ge=8, le=65_536)] = 256
    """Width of the hidden states."""
    num_heads: Annotated[int, Field(ge=1, le=1024)] = 4
    """Attention heads; ``d_model`` / ``num_heads`` must be an even number."""
    num_layers: Annotated[int, Field(ge=1, le=1024)] = 4
    """Layers; an encoder-decoder has so many of each."""
    d_ff: Annotated[int, Field(ge=8, le=1_048_576)] = 1024
    """Width of the feed-forward layers."""
    max_seq_len: Annotated[int, Field(ge=16, le=1_048_576)] = 512
    """Context length in tokens; texts are packed into sequences of this length."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of values dropped in training; a decoder drops attention weights only."""

    @model_validator(mode="after")
    def _check_heads(self) -> Self:
        if self.d_model % (2 * self.num_heads):
            raise ValueError("d_model must be an even multiple of num_heads")
        return self


class TrackSettings(Section):
    """A track: what is learned for one task on one base model, or documents that are searched."""

    task: Annotated[str, AfterValidator(_is_task)] = "chat"
    """What it learns: ``chat``; ``text_classification``; ``token_classification`` (labelled spans, such as names), or
    ``bidirectional_token_classification``, which lets a causal base read the whole text for each tag; ``spectra``: which molecule a
    mass spectrum is of; or a task of your own as ``module:Class`` (see ``lorad.tasks.interface``). ``retrieval`` learns nothing: its files are documents, which can be searched at once."""
    base: str = "smollm2"
    """Name of a base model in ``models/base``; see ``lorad base add``. ``scratch``: none, the track trains a model of its own from
    random weights on plain text. A track of documents needs none."""
    architecture: Architecture | None = None
    """With ``base: scratch``: ``encoder`` learns hidden words (masked language modelling), ``decoder`` the next word,
    ``encoder-decoder`` hidden spans. It decides the task."""
    model: ModelSettings | None = None
    """With ``base: scratch``: the sizes of the model; ``None``: the defaults."""
    split: SplitSettings | None = None
    """How a track of documents divides them; ``None``: as ``documents.split`` says."""
    retrieve: TrackName | None = None
    """The track of documents in which a track of chat looks its questions up; a request names another one, or none."""

    @model_validator(mode="before")
    @classmethod
    def _name_task(cls, given: Any) -> Any:
        """Let the architecture of a model from scratch name its task, and its ``model_type`` the architecture."""
        if not isinstance(given, Mapping) or given.get("base") != SCRATCH:
            return given
        model = given.get("model")
        typed = MODEL_TYPES.get(str(model.get("model_type"))) if isinstance(model, Mapping) else None
        chosen = given.get("architecture") or typed
        task = PRETRAINING.get(chosen) if isinstance(chosen, str) else None
        return {"task": task, **given, "architecture": chosen} if task else given

    @model_validator(mode="after")
    def _check_scratch(self) -> Self:
        is_scratch, own = self.base == SCRATCH, (self.architecture, self.model)
        if not is_scratch and (own != (None, None) or self.task in PRETRAINING.values()):
            raise ValueError(f"architecture, model and {self.task} need base: {SCRATCH}")
        if is_scratch and self.architecture is None:
            raise ValueError(f"base: {SCRATCH} needs an architecture: {', '.join(PRETRAINING)}")
        if is_scratch and self.architecture and self.task != PRETRAINING[self.architecture]:
            raise ValueError(f"base: {SCRATCH} learns what its architecture says; leave task out")
        if self.model and self.model.model_type and MODEL_TYPES[self.model.model_type] != self.architecture:
            raise ValueError(f"model_type {self.model.model_type} is no {self.architecture}")
        return self

    @property
    def sizes(self) -> ModelSettings:
        """Return the sizes of a model from scratch."""
        return self.model or ModelSettings()


class RoleSettings(Section):
    """A member of a system: a track that classifies texts, or variants of one by size.

    The steps of a chain are ``detector``, ``refinement`` and ``classifier``, in this order; the first two may be missing.
    """

    track: TrackName | None = None
    """The track that answers."""
    variants: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")], TrackName] = {}
    """Instead of ``track``: several by names of your own, the largest first."""
    variant: str = "auto"
    """Which variant answers unless a request names one; ``auto``: the first that has learned something. Where a program loads
    the system (``lorad.library``) its base must also fit in the memory that is free."""
    input: str = "{text}"
    """What it is asked; ``{detector}`` and ``{refinement}`` are the labels of the steps before."""
    continue_on: tuple[str, ...] = ()
    """Labels with which a text goes on to the next step; with any other the chain ends there. Empty: with all."""

    @property
    def tracks(self) -> dict[str, str]:
        """Return the tracks by their variants' names, the largest first; a single one has an empty name."""
        return dict(self.variants) if self.variants else {"": self.track or ""}


class SystemSettings(Section):
    """Tracks that answer together, one after the other: ``POST /lorad/systems/NAME``."""

    detector: RoleSettings | None = None
    refinement: RoleSettings | None = None
    classifier: RoleSettings

    @property
    def roles(self) -> dict[str, RoleSettings]:
        """Return the members by their roles, in the order of the chain."""
        found = {"detector": self.detector, "refinement": self.refinement, "classifier": self.classifier}
        return {name: role for name, role in found.items() if role is not None}


class RegistrySettings(Section):
    """Which versions stay on disk; ``latest``, ``previous``, pinned and tagged versions always do."""

    keep: Count = 10
    """Maximum number of versions."""
    max_age_days: Days | None = None
    """Maximum age of a version; ``None``: no limit."""
    max_bytes: Bytes | None = None
    """Maximum size of all versions together; ``None``: no limit."""
    keep_rejected: CountOrZero = 10
    """Maximum number of rejected candidates kept for ``lorad retry --force``; the oldest are removed first."""
    scrub_at: TimeOfDay | None = "04:00"
    """Local time of day at which all versions and base models are hashed and verified; ``None``: never."""


class LogSettings(Section):
    """What is logged to standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """The least important messages to write."""
    format: Literal["auto", "console", "json"] = "auto"
    """``auto``: ``console`` on a terminal, ``json`` elsewhere."""


class Settings(Section):
    """All settings."""

    tracks: Annotated[dict[TrackName, TrackSettings], Field(min_length=1)] = {"chat": TrackSettings()}
    systems: dict[TrackName, SystemSettings] = {}
    inbox: InboxSettings = InboxSettings()
    planner: PlannerSettings = PlannerSettings()
    rehearsal: RehearsalSettings = RehearsalSettings()
    training: TrainingSettings = TrainingSettings()
    pretraining: PretrainingSettings = PretrainingSettings()
    judge: JudgeSettings = JudgeSettings()
    engine: EngineSettings = EngineSettings()
    answering: AnsweringSettings = AnsweringSettings()
    documents: DocumentSettings = DocumentSettings()
    server: ServerSettings = ServerSettings()
    registry: RegistrySettings = RegistrySettings()
    log: LogSettings = LogSettings()

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        problems = [
            f"systems.{name}.{role}: {problem}"
            for name, system in self.systems.items()
            for role, member in system.roles.items()
            for problem in _problems_of(role, member, self.tracks)
        ]
        problems += [
            f"tracks.{name}.retrieve: {track.retrieve} is no track with task: {RETRIEVAL}"
            for name, track in self.tracks.items()
            if track.retrieve is not None and track.retrieve not in self.document_tracks
        ]
        if problems:
            raise ValueError("; ".join(problems))
        return self

    @property
    def learning_tracks(self) -> dict[str, TrackSettings]:
        """Return the tracks that learn, by name."""
        return {name: track for name, track in self.tracks.items() if track.task != RETRIEVAL}

    @property
    def document_tracks(self) -> dict[str, TrackSettings]:
        """Return the tracks that hold documents, by name."""
        return {name: track for name, track in self.tracks.items() if track.task == RETRIEVAL}

    def system(self, name: str) -> SystemSettings:
        """Return a system's settings; raise ``ConfigError`` with the known systems."""
        if name not in self.systems:
            known = ", ".join(self.systems) or "none; for an example: lorad --config lcr run"
            raise ConfigError(f"there is no system {name!r}; known: {known}", code="no_such_system")
        return self.systems[name]

    def track(self, name: str) -> TrackSettings:
        """Return a track's settings; raise ``ConfigError`` with the known tracks."""
        if name not in self.tracks:
            known = ", ".join(self.tracks)
            raise ConfigError(f"there is no track {name!r}; known: {known}", code="no_such_track")
        return self.tracks[name]


def _problems_of(role: str, member: RoleSettings, tracks: Mapping[str, TrackSettings]) -> Iterator[str]:
    """Yield what is wrong with a member of a system."""
    if (member.track is None) == (not member.variants):
        yield "name either its track or its variants"
        return
    for track in member.tracks.values():
        if track not in tracks:
            yield f"there is no track {track}; known: {', '.join(tracks)}"
        elif (task := tracks[track].task) in TASKS and task != CLASSIFICATION:
            yield f"the track {track} learns {task}; a system needs tracks of {CLASSIFICATION}"
    if member.variant not in ("auto", *member.variants):
        yield f"there is no variant {member.variant}; known: {', '.join(('auto', *member.variants))}"
    before = {"detector": ("text",), "refinement": ("text", "detector")}
    known = before.get(role, ("text", "detector", "refinement"))
    strange = [name for name in re.findall(r"\{(.*?)\}", member.input) if name not in known]
    if strange or "{text}" not in member.input:
        told = ", ".join(f"{{{name}}}" for name in known)
        yield f"input must hold {{text}}, and may hold no more than {told}"


RENAMED = {
    "inbox.max_waiting": "inbox.max_queued_files",
    "planner.until": "planner.stopping",
    "planner.stopping.max_epochs": "planner.stopping.max_rounds",
    "rehearsal.refresh": "rehearsal.recalled_share",
    "rehearsal.general_share_most": "rehearsal.general_share_max",
    "judge.max_drop_examples": "judge.max_lost_examples",
    "judge.max_drop_share": "judge.max_lost_share",
    "engine.max_waiting": "engine.max_queued_requests",
    "engine.resident_versions": "engine.max_loaded_versions",
    "engine.strict": "engine.strict_environment",
}
"""Settings that were renamed: the old name is refused, and the error tells the new one."""

#: What PyYAML raises itself for some values: ``!!int ""``, a list as a key, too deep nesting.
_NOT_VALUES = (ValueError, TypeError, KeyError, IndexError, OverflowError, RecursionError)


def load_settings(home: Home, config: str | None = None, overrides: Sequence[str] = ()) -> Settings:
    """Read the settings of a home; raise one ``ConfigError`` that names every problem."""
    tree: dict[str, Any] = {}
    default = home.configs / "default.yaml"
    paths = [default] * default.is_file() + ([_find_config(home, config)] if config else [])
    for path in paths:
        tree = _overlay(tree, _read_yaml(path))
    for override in overrides:
        found = _parse_override(override)
        if "tracks" in found:  # an option adds a track: files alone say that there is no chat
            tree.setdefault("tracks", {"chat": {}})
        tree = _overlay(tree, found)
    try:
        return Settings.model_validate(tree)
    except ValidationError as error:
        problems = [_explain(problem) for problem in error.errors()]
        sources = ", ".join([*map(str, paths), *(["--set"] if overrides else [])])
        raise ConfigError(
            f"invalid settings ({sources}):\n  " + "\n  ".join(problems), problems=problems
        ) from None


def _find_config(home: Home, name: str) -> Path:
    shipped = Path(__file__).parent / f"{name}.yaml"
    candidates = [Path(name), home.configs / name, home.configs / f"{name}.yaml", shipped]
    for path in candidates:
        if path.is_file():
            return path
    raise ConfigError(f"no settings file {name}; tried {', '.join(map(str, candidates))}", code="no_config")


class _EachOnce(yaml.SafeLoader):
    """Refuses a key that stands twice in a mapping: the later one would take the place of the earlier without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        names = [key.value for key in keys]
        twice = next((key for at, key in enumerate(keys) if key.value in names[:at]), None)
        if twice is not None:
            raise yaml.constructor.ConstructorError(
                problem=f"{twice.value} stands twice; write all of it in one place",
                problem_mark=twice.start_mark,
            )
        return super().construct_mapping(node, deep)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), _EachOnce) or {}  # noqa: S506 - a safe loader
    except (OSError, UnicodeDecodeError, yaml.YAMLError, *_NOT_VALUES) as error:
        raise ConfigError(f"cannot read the settings in {path}: {error}", code="unreadable_config") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{path} must hold a mapping of sections, not a {type(data).__name__}")
    return data


def _parse_override(text: str) -> dict[str, Any]:
    key, separator, value = text.partition("=")
    if not separator or not key.strip():
        raise ConfigError(
            f"--set {text}: use the form section.key=value, for example --set inbox.settle_seconds=1"
        )
    try:
        tree: Any = yaml.load(value, _EachOnce)  # noqa: S506 - a safe loader
    except (yaml.YAMLError, *_NOT_VALUES) as error:
        raise ConfigError(f"--set {text}: the value is not valid YAML: {error}") from None
    for part in reversed(key.strip().split(".")):
        tree = {part: tree}
    return dict(tree)


def _overlay(under: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(under)
    for key, value in over.items():
        old = merged.get(key)
        merged[key] = _overlay(old, value) if isinstance(old, dict) and isinstance(value, Mapping) else value
    return merged


def _explain(problem: Any) -> str:
    where = ".".join(str(part) for part in problem["loc"])
    if not where:  # of several sections together, which say what and where
        return str(problem["msg"]).removeprefix("Value error, ")
    if problem["type"] != "extra_forbidden":
        return f"{where}: {problem['msg']} (given: {problem['input']!r})"
    if where in RENAMED:
        return _tell_renamed(where)
    known = _known_keys(problem["loc"][:-1])
    hint = did_you_mean(str(problem["loc"][-1]), known, f"known here: {', '.join(known)}")
    return f"{where}: there is no such setting; {hint}"


def _tell_renamed(old: str) -> str:
    """Say what a setting is called now, and what of a section's own settings is."""
    new = RENAMED[old]
    inner = [
        f"{key.removeprefix(new + '.')} to {now.removeprefix(new + '.')}"
        for key, now in RENAMED.items()
        if key.startswith(f"{new}.")
    ]
    return f"{old} was renamed to {new}" + (f", and its {', '.join(inner)}" if inner else "")


def _known_keys(path: Iterable[Any]) -> list[str]:
    """Return the keys of a section, in alphabetical order."""
    section: Any = Settings
    for part in path:
        fields = getattr(section, "model_fields", None)
        section = fields[part].annotation if fields else _section_in(section)
    if not isinstance(section, type):  # one that may be left out
        section = _section_in(section)
    return sorted(section.model_fields)


def _section_in(collection: Any) -> type[Section]:
    """Return the kind of section that a mapping or a tuple holds."""
    return next(kind for kind in get_args(collection) if isinstance(kind, type) and issubclass(kind, Section))
