"""One frozen tree, read from YAML, checked as a whole.

What lives here: every setting, its default and its meaning.
What never does: acting on a setting. A component is handed its own section and nothing else.

Order, later wins: built-in defaults, ``configs/default.yaml`` of the home, ``--config FILE``, ``--set k=v``.
"""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from lorad.errors import ConfigError
from lorad.home import Home
from lorad.records import StoppingRule

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


#: A track's name is a folder in ``models/`` and in ``inbox/``, beside folders of lorad's own.
RESERVED = ("base", "drops", "processing", "done", "failed")


def _not_reserved(name: str) -> str:
    if name in RESERVED:
        raise ValueError(f"{name} is a folder of lorad's own; choose another name")
    return name


TrackName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$"), AfterValidator(_not_reserved)]


class Section(BaseModel):
    """A frozen part of the settings that refuses keys that it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class InboxSettings(Section):
    """When a dropped file is complete, and what is too much."""

    settle_seconds: Seconds = 5.0
    """A file is taken once its size and time of change have rested this long."""
    rescan_seconds: Seconds = 30.0
    """The folder is read anew this often, whatever the events said; every second where there are none."""
    max_queued_files: Count = 1000
    """Files that may wait to be learned; further ones stay where they lie until there is room."""
    max_bytes: Bytes = 1_000_000_000
    max_unpacked_bytes: Bytes = 1_000_000_000
    """What a compressed file may unpack to."""
    max_rows: Count = 1_000_000
    max_row_bytes: Annotated[int, Field(ge=1, le=1_000_000_000)] = 1_000_000
    """A row as it stands in its file; the most that reading holds in memory beside what it keeps."""
    max_depth: Count = 32
    """Lists and objects in one another in a row, those inside its texts that are read as JSON included."""
    max_columns: Count = 1000
    """Fields of a row, and columns of a table."""
    max_expanded_row_bytes: Annotated[int, Field(ge=1, le=1_000_000_000)] = 16_000_000
    """What the examples of one row may come to: each answer of a chat stands behind all turns before it."""
    max_expanded_bytes: Bytes = 4_000_000_000
    """What the examples of one file may come to."""
    max_bad_share: Share = 0.05
    """Accept the good rows of a file while less than this share is bad; from there on the file fails."""
    reader_bytes: Annotated[int, Field(ge=128 << 20)] = 2_000_000_000
    """Memory of the process that reads a file; one that needs more fails."""
    reader_silent_seconds: Annotated[float, Field(gt=0)] = 60.0
    """How long that process may work on a file without a word, such as a row; then the file fails."""
    reader_seconds: Annotated[float, Field(gt=0)] = 600.0
    """How long the daemon waits for one file's rows, all in all; then the file fails."""
    keep_done_days: Days | None = None
    """Remove what was learned from ``done/`` after so many days; ``None`` keeps it for ever."""
    preferences: Literal["refuse", "learn_chosen"] = "refuse"
    """Rows that prefer one answer to another: ``learn_chosen`` learns the good one as any answer, never the bad one."""


class SizeRow(Section):
    """One row of the planner's table: the settings for drops of fewer than ``below`` examples."""

    below: Count | None = None
    """``None`` in the last row: everything larger."""
    rank: Parallel
    alpha: Annotated[int, Field(ge=1, le=65_536)]
    epochs: Rounds
    batch: Parallel
    accumulation: Parallel
    max_length: Annotated[int, Field(ge=1, le=1_048_576)]


class RateRow(Section):
    """The learning rate for models of fewer than ``below_parameters`` parameters, up to alpha 32; see ``planner``."""

    below_parameters: float | None = None
    learning_rate: Rate


class StoppingSettings(Section):
    """When a session may end; see ``records.StoppingRule``."""

    recall: Share = 0.98
    max_rounds: Rounds = 30
    patience: Rounds = 3
    min_delta: Share = 0.01
    patience_steps: Count = 48

    def as_rule(self) -> StoppingRule:
        """Return the record that the plan carries."""
        return StoppingRule(**self.model_dump())


class PlannerSettings(Section):
    """How a drop's size becomes a session's settings."""

    table: tuple[SizeRow, ...] = (
        SizeRow(below=100, rank=8, alpha=16, epochs=10, batch=2, accumulation=4, max_length=512),
        SizeRow(below=500, rank=16, alpha=32, epochs=5, batch=2, accumulation=4, max_length=640),
        SizeRow(rank=32, alpha=64, epochs=3, batch=4, accumulation=2, max_length=768),
    )
    learning_rates: tuple[RateRow, ...] = (
        RateRow(below_parameters=2e9, learning_rate=1e-3),
        RateRow(learning_rate=3e-4),
    )
    loraplus_ratio: Annotated[float, Field(ge=1, le=1000)] = 4.0
    """An adapter's B learns this many times faster than its A (LoRA+, Hayou et al. 2024)."""
    warmup_share: Share = 0.1
    """Warm-up is min(share x n, ``warmup_max``) steps."""
    warmup_max: CountOrZero = 50
    stopping: StoppingSettings = StoppingSettings()


class RehearsalSettings(Section):
    """How old examples are trained again beside the new ones."""

    share: Share = 0.5
    """Most that old and recalled examples may take of a round: 0.5 is as many as are new."""
    max_examples: CountOrZero = 2000
    """All old examples that are not recalled are trained while the old are at most this many; of more, ``share``."""
    strategy: Literal["wrong_first", "balanced", "all"] = "wrong_first"
    """``wrong_first``: what is not recalled, then the least trained. ``balanced``: the least trained, whatever is
    recalled. ``all``: every old example in every round, at any cost."""
    recalled_share: Share = 0.25
    """Share of what is already recalled that each round trains again."""
    general_share: Share = 0.1
    """Share of general conversation in every step; the model is held to the pristine base's own words."""
    general_share_max: Share = 0.5
    """The same, where the parent has used up all of ``judge.max_perplexity_rise``; in proportion where some of it."""
    general_weight: Annotated[float, Field(ge=0, le=1000)] = 3.0
    """Weight of that beside 1 for the answers."""


class TrainingSettings(Section):
    """How the session's child process runs."""

    seed: Seed = 20_261_121
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    gradient_checkpointing: bool | None = None
    """``None`` lets the planner decide by the machine."""
    threads: Parallel | None = None
    """CPU threads of the child; ``None`` takes all cores, at lower priority than answering."""
    nice: Annotated[int, Field(ge=-20, le=19)] = 10
    max_rank: Parallel = 64
    """The summed rank above which a session first truncates what it begins with."""
    consolidate_at: TimeOfDay | None = "03:00"
    """Local time of day at which an adapter of more than half of ``max_rank`` is made smaller; ``None`` is never."""
    merge_adapters_on_save: bool = True
    """Keep one copy of ``latest`` that needs no base, in ``models/<track>/merged``, where the disk has room."""
    max_seconds: Seconds = 6 * 3600
    """A session that takes longer is stopped and counts as failed."""


class JudgeSettings(Section):
    """What a candidate must prove."""

    min_recall: Share = 0.95
    """Recall on the new data."""
    max_lost_examples: CountOrZero = 2
    max_lost_share: Share = 0.02
    """An old dataset may lose at most max(``max_lost_examples``, this share of it)."""
    significance: Share = 0.05
    """Pooled loss over old examples, exact McNemar test."""
    max_perplexity_rise: Limit = 0.15
    max_kl: Limit = 1.0
    max_degenerate_share: Share = 0.1
    max_reload_difference: Limit = 1e-6
    max_merge_difference: Limit = 2.0
    """Logits; float32 stays under 0.01, bfloat16 rounds the merged weights."""
    max_truncation_error: Limit = 1.0
    """Share of an adapter that a truncation may lose. 1 refuses none: what it did to recall decides."""


class EngineSettings(Section):
    """How questions are answered."""

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    max_queued_requests: Count = 32
    """Requests beyond this many get 503 and Retry-After."""
    max_new_tokens: Count | None = None
    """Most tokens of an answer whose request names no ``max_tokens``; ``None`` is what the context leaves."""
    max_loaded_versions: Count = 3
    """Adapters kept in memory; ``latest`` and ``previous`` always are."""
    verify_base: bool = True
    """Hash the base models' files at every start: about a second for each GB."""
    strict_environment: bool = False
    """Refuse a version that was made with other packages, another device or precision, instead of saying so."""


class ServerSettings(Section):
    """Where questions arrive."""

    socket: str = "run/lorad.sock"
    """Relative to the home. The folder is made 0750, the socket 0660."""
    max_body_bytes: Annotated[int, Field(ge=1024, le=1_000_000_000)] = 1_000_000
    """A longer request gets 413 and is not kept; about a million characters."""
    max_connections: Annotated[int, Field(ge=1, le=65_536)] = 512
    """At once, and never more than half of the descriptors that the system allows. One that waits for its client makes
    room for a new one, the oldest first; where all are being answered, a new one gets 503."""
    header_seconds: Annotated[float, Field(gt=0, le=3600)] = 10.0
    """A client that has not sent its request's header after so long is cut off."""
    transfer_seconds: Annotated[float, Field(gt=0, le=3600)] = 30.0
    """The same for the body, and for taking what waits to be read of an answer."""


class TrackSettings(Section):
    """One line of learning."""

    task: Literal["chat"] = "chat"
    base: str = "smollm2"
    """A name under ``models/base``, made by ``lorad base add``."""


class RegistrySettings(Section):
    """Which versions stay on disk: see ``versions.pruning.find_surplus``."""

    keep: Count = 10
    """Most versions on disk."""
    max_age_days: Days | None = None
    """Older versions are removed; ``None`` keeps them however old."""
    max_bytes: Bytes | None = None
    """Most bytes that the versions take together; ``None`` is no limit."""
    keep_rejected: CountOrZero = 10
    """Refused candidates that are kept for ``lorad retry --force``; the oldest go first."""
    scrub_at: TimeOfDay | None = "04:00"
    """Local time of day at which versions and base models are hashed anew; ``None`` is never."""


class LogSettings(Section):
    """What is written to standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "console", "json"] = "auto"
    """``auto`` writes for people on a terminal and JSON elsewhere."""


class Settings(Section):
    """Everything that can be set."""

    tracks: Annotated[dict[TrackName, TrackSettings], Field(min_length=1)] = {"chat": TrackSettings()}
    inbox: InboxSettings = InboxSettings()
    planner: PlannerSettings = PlannerSettings()
    rehearsal: RehearsalSettings = RehearsalSettings()
    training: TrainingSettings = TrainingSettings()
    judge: JudgeSettings = JudgeSettings()
    engine: EngineSettings = EngineSettings()
    server: ServerSettings = ServerSettings()
    registry: RegistrySettings = RegistrySettings()
    log: LogSettings = LogSettings()

    def track(self, name: str) -> TrackSettings:
        """Return a track's settings; raise ``ConfigError`` naming the known ones."""
        if name not in self.tracks:
            known = ", ".join(self.tracks)
            raise ConfigError(f"there is no track {name!r}; known: {known}", code="no_such_track")
        return self.tracks[name]


RENAMED = {
    "inbox.max_waiting": "inbox.max_queued_files",
    "planner.until": "planner.stopping (and max_epochs in it max_rounds)",
    "planner.stopping.max_epochs": "planner.stopping.max_rounds",
    "rehearsal.refresh": "rehearsal.recalled_share",
    "rehearsal.general_share_most": "rehearsal.general_share_max",
    "judge.max_drop_examples": "judge.max_lost_examples",
    "judge.max_drop_share": "judge.max_lost_share",
    "engine.max_waiting": "engine.max_queued_requests",
    "engine.resident_versions": "engine.max_loaded_versions",
    "engine.strict": "engine.strict_environment",
}
"""Settings that had another name before: the old one is refused with the new one."""

#: What the YAML reader lets through from the constructors of its types: ``!!int ""``, a list as a key, too deep a nest.
_NOT_VALUES = (ValueError, TypeError, KeyError, IndexError, OverflowError, RecursionError)


def load_settings(home: Home, config: str | None = None, overrides: Sequence[str] = ()) -> Settings:
    """Read the settings of a home; raise one ``ConfigError`` that names every problem."""
    tree: dict[str, Any] = {}
    default = home.configs / "default.yaml"
    for path in [default] * default.is_file() + ([_find_config(home, config)] if config else []):
        tree = _overlay(tree, _read_yaml(path))
    for override in overrides:
        tree = _overlay(tree, _parse_override(override))
    try:
        return Settings.model_validate(tree)
    except ValidationError as error:
        problems = [_explain(problem) for problem in error.errors()]
        raise ConfigError(
            "the settings do not work:\n  " + "\n  ".join(problems), problems=problems
        ) from None


def _find_config(home: Home, name: str) -> Path:
    candidates = [Path(name), home.configs / name, home.configs / f"{name}.yaml"]
    for path in candidates:
        if path.is_file():
            return path
    raise ConfigError(
        f"no settings file {name}; looked at {', '.join(map(str, candidates))}", code="no_config"
    )


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError, *_NOT_VALUES) as error:
        raise ConfigError(f"cannot read the settings in {path}: {error}", code="unreadable_config") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{path} must hold a mapping of sections, not a {type(data).__name__}")
    return data


def _parse_override(text: str) -> dict[str, Any]:
    key, separator, value = text.partition("=")
    if not separator or not key.strip():
        raise ConfigError(
            f"--set {text}: write it as section.key=value, for example --set inbox.settle_seconds=1"
        )
    try:
        tree: Any = yaml.safe_load(value)
    except (yaml.YAMLError, *_NOT_VALUES) as error:
        raise ConfigError(f"--set {text}: the value is not YAML: {error}") from None
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
    if problem["type"] != "extra_forbidden":
        return f"{where}: {problem['msg']} (given: {problem['input']!r})"
    if where in RENAMED:
        return f"{where} is now called {RENAMED[where]}; rename it"
    known = _known_keys(problem["loc"][:-1])
    near = difflib.get_close_matches(str(problem["loc"][-1]), known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"known here: {', '.join(known)}"
    return f"{where}: there is no such setting; {hint}"


def _known_keys(path: Iterable[Any]) -> list[str]:
    model: Any = Settings
    for part in path:
        if isinstance(model, type) and issubclass(model, BaseModel) and part in model.model_fields:
            model = model.model_fields[part].annotation
        else:  # inside dict[str, X] or tuple[X, ...]: the key or index says nothing, the type's argument does
            model = getattr(model, "__args__", (None, None))[-1 if not isinstance(part, int) else 0]
        if (
            hasattr(model, "__args__")
            and not isinstance(part, int)
            and getattr(model, "__origin__", None) is None
        ):
            model = model.__args__[0]
    return sorted(getattr(model, "model_fields", {}))
