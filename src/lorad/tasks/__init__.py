"""Tasks: interchangeable kinds of learning behind one interface.

A task says which examples it accepts, how they become tokens, which model head it needs, how right is
measured and how an answer is made. Nothing outside a task's own file knows its templates.
"""

from collections.abc import Iterable
from typing import Any

from lorad.errors import ConfigError, SampleError
from lorad.records import Encoded, Example
from lorad.tasks.chat import Chat
from lorad.tasks.interface import Task

__all__ = ["Task", "encode", "find"]

_TASKS: dict[str, Task] = {task.name: task for task in (Chat(),)}


def find(name: str) -> Task:
    """Return the task of this name; raise ``ConfigError`` naming the known ones."""
    if name not in _TASKS:
        raise ConfigError(
            f"there is no task {name!r}; known: {', '.join(sorted(_TASKS))}", code="no_such_task"
        )
    return _TASKS[name]


def encode(
    task: Task, tokenizer: Any, examples: Iterable[Example]
) -> tuple[list[tuple[Example, Encoded]], list[tuple[Example, SampleError]]]:
    """Return the examples that this base model's tokenizer and template can hold, and the others with the reason."""
    usable: list[tuple[Example, Encoded]] = []
    unusable: list[tuple[Example, SampleError]] = []
    for example in examples:
        try:
            usable.append((example, task.encode(tokenizer, example)))
        except SampleError as error:
            unusable.append((example, error))
    return usable, unusable
