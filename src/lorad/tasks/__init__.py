"""Tasks: interchangeable kinds of learning behind one interface.

A task says which examples it accepts, how they become rows, which head its model needs, how right is measured and how an
answer is made (``interface`` tells all of it). What never lives here: reading files, models and adapters, training,
judging, versions. Nothing outside a task's own file knows its templates, its rows or its labels.
"""

import importlib
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

from lorad.config import TASKS
from lorad.errors import ConfigError, SampleError
from lorad.records import RETRIEVAL, Example
from lorad.tasks.interface import Generating, Predicting, Row, Task

__all__ = ["Generating", "Predicting", "Row", "Task", "encode", "find", "sampled"]


@cache
def find(name: str) -> Task:
    """Return the task that a track's settings name: one of ``config.TASKS``, or a class of yours as ``module:Class``.

    A class is named where it is used, and not registered: the session, a process of its own, finds it by the same
    word from its order, and a task needs neither packaging with entry points nor a second setting. Its module must be
    installed where lorad is. Raise ``ConfigError`` when there is no such task, naming the known ones.
    """
    if name == RETRIEVAL:
        told = "a track of documents learns nothing and has no versions; see: lorad docs --help"
        raise ConfigError(told, code="no_such_task")
    module, _, kind = TASKS.get(name, name).partition(":")
    try:
        found = getattr(importlib.import_module(module), kind) if kind else None
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"the task {name!r} cannot be loaded: {error}", code="no_such_task") from error
    if not (isinstance(found, type) and issubclass(found, Task)):
        known = ", ".join(sorted(TASKS))
        raise ConfigError(
            f"there is no task {name!r}; known: {known}, and a class of yours as module:Class",
            code="no_such_task",
        )
    return found()


def encode(
    task: Task, tokenizer: Any, examples: Iterable[Example]
) -> tuple[list[tuple[Example, Any]], list[tuple[Example, SampleError]]]:
    """Return the examples that this base model's tokenizer can hold, as rows, and the others with the reason.

    All examples of a dataset that are at hand belong into one call: see ``Task.complete`` and ``sampled``.
    """
    usable: list[tuple[Example, Any]] = []
    unusable: list[tuple[Example, SampleError]] = []
    for example in examples:
        try:
            usable.append((example, task.encode(tokenizer, example)))
        except SampleError as error:
            unusable.append((example, error))
    examples = [example for example, _ in usable]
    rows = task.complete(examples, [row for _, row in usable])
    return list(zip(examples, rows, strict=True)), unusable


def sampled(
    task: Task, tokenizer: Any, sample: Sequence[Example], everything: Sequence[Example]
) -> dict[str, Any]:
    """Return the rows of a sample by their examples' ids, without what the tokenizer cannot hold.

    Where a row means what its whole dataset tells, ``everything`` is encoded: completed from a sample it would mean something else.
    """
    is_alone = type(task).complete is Task.complete
    usable, _ = encode(task, tokenizer, sample if is_alone else everything)
    wanted = {example.id for example in sample}
    return {example.id: row for example, row in usable if example.id in wanted}
