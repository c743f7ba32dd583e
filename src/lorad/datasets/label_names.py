"""The names of labels: each is spelled in one way.

What lives here: which labels an example has, and telling names that differ in case alone, which are one label to people and
two to a model. What never does: formats (``formats``), which outputs a head has (``models.heads``).
"""

from collections.abc import Iterable
from typing import Any

from lorad.errors import SampleError
from lorad.records import Example


class LabelNames:
    """Names of labels in the spelling in which each was met first."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._known: dict[str, str] = {}
        for name in names:
            self._known.setdefault(name.casefold(), name)

    def check(self, example: Example) -> None:
        """Raise ``SampleError`` when a label of an example is known, or stands beside it, in another case."""
        names = sorted(of(example))
        for name in names:
            _compare(name, self._known.get(name.casefold(), name))
        check(names)

    def add(self, example: Example) -> None:
        """Remember the labels of an example."""
        for name in of(example):
            self._known.setdefault(name.casefold(), name)


def check(names: Iterable[str]) -> None:
    """Raise ``SampleError`` when two of these names differ in case alone."""
    known: dict[str, str] = {}
    for name in names:
        _compare(name, known.setdefault(name.casefold(), name))


def _compare(name: str, known: str) -> None:
    if known != name:
        raise SampleError(
            f"the label {name!r} differs from {known!r} in case only; write one of them everywhere",
            code="label_case",
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
