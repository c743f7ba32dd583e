"""The names of labels: each is spelled in one way.

What lives here: which labels an example has, and telling names that differ in nothing but case, how an accent is encoded, blanks or
signs that nobody sees, which are one label to people and two to a model. What never does: formats (``formats``), which outputs a
head has (``models.heads``).
"""

import unicodedata
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from lorad.errors import SampleError
from lorad.records import Example

LONGEST = 1000
"""Characters of a label's name."""


class LabelNames:
    """Names of labels in the spelling in which each was met first, and so each level of a path such as ``a/b``."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._known: dict[str, str] = {}
        for name in names:
            self._remember(name)

    def check(self, example: Example) -> None:
        """Raise ``SampleError`` when a label of an example is known, or stands beside it, in another spelling."""
        names = sorted(of(example))
        for name in names:
            for key, level in _levels(name):
                _compare(level, self._known.get(key, level))
        check(names)

    def add(self, example: Example) -> None:
        """Remember the labels of an example."""
        for name in of(example):
            self._remember(name)

    def _remember(self, name: str) -> None:
        for key, level in _levels(name):
            self._known.setdefault(key, level)


def check(names: Iterable[str]) -> None:
    """Raise ``SampleError`` when two of these names, or levels of them, are one to people."""
    known: dict[str, str] = {}
    for name in names:
        for key, level in _levels(name):
            _compare(level, known.setdefault(key, level))


@lru_cache(maxsize=10_000)
def _levels(name: str) -> tuple[tuple[str, str], ...]:
    """Return each level of a path, from its beginning, behind what is the same for all its spellings; a name alone is one."""
    parts = name.split("/")
    keys = [_seen(part) for part in parts]
    return tuple(("/".join(keys[:depth]), "/".join(parts[:depth])) for depth in range(1, len(parts) + 1))


def _seen(name: str) -> str:
    """Return what people see of a name, whatever its case: composed, without what has no width, one blank between words."""
    drawn = "".join(sign for sign in unicodedata.normalize("NFC", name) if unicodedata.category(sign) != "Cf")
    return " ".join(unicodedata.normalize("NFC", drawn.casefold()).split())


def _compare(name: str, known: str) -> None:
    if known == name:
        return
    if known.casefold() == name.casefold():
        raise SampleError(
            f"the label {name!r} differs from {known!r} in case only; write one of them everywhere",
            code="label_case",
        )
    raise SampleError(
        f"the label {name!a} looks like {known!a} (accents, blanks or invisible signs differ); write one of them "
        "everywhere",
        code="label_spelling",
    )


def of(example: Example) -> set[str]:
    """Return the labels of an example's spans, or of its text; of other tasks none."""
    return of_target(example.task, example.target)


def of_target(task: str, target: Any) -> set[str]:
    """Return the labels that a target names, in the form that a task's examples have."""
    if task == "tagging":
        return {label for _, _, label in target}
    if task == "classify":
        return {target} if isinstance(target, str) else set(target)
    return set()
