"""The words of ``update_checkpoint_tracker.py``, which other projects enter their versions with, as those of ``lorad versions add``.

    --version v0.3 --description TEXT --accuracy 0.90 --f1_score 0.89 --set_as_latest [PATH]

What lives here: one list of words for another. What never does: importing. A version never comes without its weights: without a
path they are those in ``checkpoints/v0.3`` of this folder.
"""

from collections.abc import Iterator, Sequence

from lorad.errors import ConfigError

VERSION, SET_AS_LATEST = "--version", "--set_as_latest"
METRICS = ("--accuracy", "--f1_score")
CHECKPOINTS = "checkpoints"


def as_versions_add(words: Sequence[str]) -> list[str]:
    """Return the words for ``lorad versions add``; raise ``ConfigError`` where no version is named."""
    version, paths, options = "", list[str](), list[str]()
    left = iter([part for word in words for part in _split(word)])
    for word in left:
        if word == VERSION:
            version = _value(word, left)
        elif word in METRICS:
            options += ["--metric", f"{word.removeprefix('--')}={_value(word, left)}"]
        elif word == SET_AS_LATEST:
            options.append("--set-latest")
        elif word.startswith("--") and word not in {"--json", "--allow-different-base", "--help"}:
            options += [word, _value(word, left)]
        elif word.startswith("-"):
            options.append(word)
        else:
            paths.append(word)
    if not version and "--help" not in options:
        raise ConfigError("no version is named; use: --version v0.3", code="no_version")
    return [*filter(None, [version]), *(paths or [f"{CHECKPOINTS}/{version}"]), *options]


def _split(word: str) -> list[str]:
    """Return an option and its value, which may be written as one."""
    name, sign, value = word.partition("=")
    return [name, value] if sign and name.startswith("--") else [word]


def _value(option: str, left: Iterator[str]) -> str:
    value = next(left, None)
    if value is None:
        raise ConfigError(f"{option} needs a value", code="bad_option")
    return value
