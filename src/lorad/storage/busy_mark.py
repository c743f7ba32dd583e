"""Whether questions are being answered, told to other processes of this machine in eight bytes of shared memory.

What lives here: the mark and its two ends. What never does: when it is set (``serving.engine``), what follows from it
(``training.pauses``).

The bytes are a file without a name: nobody else finds it, and it goes with the last process that holds it. They are one
number: when the last answer ended, by the clock that all processes of a machine share (``time.monotonic``), or infinity
while one is wanted.
"""

import math
import mmap
import os
import tempfile
import time
from collections.abc import Callable

from lorad.storage import files

SIZE = 8


class BusyMark:
    """The end that writes."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        with files.passing_errors("making the busy mark"):
            self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - open for as long as the mark is
            self._file.write(
                bytes(SIZE)
            )  # a hole has no place on a full disk, and a store there ends the process
        self._time = memoryview(mmap.mmap(self._file.fileno(), SIZE)).cast("d")
        self._time[0] = -math.inf

    @property
    def descriptor(self) -> int:
        """Return the file that another process is to be handed."""
        return self._file.fileno()

    def tell(self, is_busy: bool) -> None:
        """Say whether anybody waits for an answer."""
        self._time[0] = math.inf if is_busy else self._clock()

    def close(self) -> None:
        """Hand it to nobody any more; telling goes on to do no harm."""
        self._file.close()


def follow(descriptor: int) -> Callable[[], float]:
    """Return what reads the mark behind a descriptor that was handed to this process, which is closed.

    Raise ``OSError`` or ``ValueError`` where there is none.
    """
    try:
        told = memoryview(mmap.mmap(descriptor, SIZE, access=mmap.ACCESS_READ)).cast("d")
    finally:
        os.close(descriptor)
    return lambda: float(told[0])
