"""The moments that a crash can fall between.

What lives here: ``step``, which every operation that changes the disk passes (write, sync, rename, link, removal,
commit), and ``guarded``, by which a test stands beside each of them: to look, to fail, to number them. What never
does: changing the disk. The program itself guards nothing.
"""

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar

#: Called with the operation's name and its place; the operation happens inside what it returns.
Guard = Callable[[str, str], contextlib.AbstractContextManager[None]]


def _unguarded(name: str, place: str) -> contextlib.AbstractContextManager[None]:
    del name, place
    return contextlib.nullcontext()


_guard: ContextVar[Guard] = ContextVar("guard", default=_unguarded)


def step(name: str, place: object = "") -> contextlib.AbstractContextManager[None]:
    """Return what one operation that changes the disk happens in."""
    return _guard.get()(name, str(place))


@contextlib.contextmanager
def guarded(guard: Guard) -> Iterator[None]:
    """Let a guard stand beside every operation of this thread."""
    before = _guard.set(guard)
    try:
        yield
    finally:
        _guard.reset(before)
