"""What a daemon and its session tell each other about the device that both compute on, in sixteen bytes of shared memory.

What lives here: the mark and its two ends. What never does: when it is set, and what follows from it (``serving.engine``,
``training.pauses``).

The bytes are a file without a name: nobody else finds it, and it goes with the last process that holds it. They are two
numbers, by the clock that all processes of a machine share (``time.monotonic``). The daemon writes when the last answer
ended, or infinity while one is wanted. The session writes since when it claims the device for itself, or minus infinity.
"""

import math
import mmap
import os
import tempfile
import time
from collections.abc import Callable

from lorad.storage import files

SIZE = 16
ANSWERED, CLAIMED = 0, 1
LONGEST_CLAIM = 0.5
"""Seconds after which a claim is void: whoever made it may have died."""


class BusyMark:
    """The daemon's end."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        with files.passing_errors("making the busy mark"):
            self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - open for as long as the mark is
            self._file.write(
                bytes(SIZE)
            )  # a hole has no place on a full disk, and a store there ends the process
        self._times = memoryview(mmap.mmap(self._file.fileno(), SIZE)).cast("d")
        self._times[ANSWERED] = self._times[CLAIMED] = -math.inf

    @property
    def descriptor(self) -> int:
        """Return the file that another process is to be handed."""
        return self._file.fileno()

    def tell(self, is_busy: bool) -> None:
        """Say whether anybody waits for an answer."""
        self._times[ANSWERED] = math.inf if is_busy else self._clock()

    def is_claimed(self) -> bool:
        """Tell whether a session claims the device for itself now."""
        return self._clock() - self._times[CLAIMED] < LONGEST_CLAIM

    def close(self) -> None:
        """Hand it to nobody any more; telling goes on to do no harm."""
        self._file.close()


class FollowedMark:
    """The session's end."""

    def __init__(self, descriptor: int, clock: Callable[[], float] = time.monotonic) -> None:
        """Take the descriptor that was handed to this process, and close it.

        Raise ``OSError`` or ``ValueError`` where there is no mark behind it.
        """
        try:
            self._times = memoryview(mmap.mmap(descriptor, SIZE)).cast("d")
        finally:
            os.close(descriptor)
        self._clock = clock

    def answered_at(self) -> float:
        """Return when the last answer ended; infinity while one is wanted."""
        return float(self._times[ANSWERED])

    def claim(self, is_claimed: bool) -> None:
        """Say whether the session claims the device for itself from now on."""
        self._times[CLAIMED] = self._clock() if is_claimed else -math.inf
