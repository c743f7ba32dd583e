"""When a process of a session ends: told by a signal, or because its daemon is gone.

What never lives here: starting and killing processes (``executors``).
"""

import os
import signal
import sys
import threading

STOPPED = 75
"""Exit status of a process that was told to end (``EX_TEMPFAIL``)."""


def end_when_told() -> None:
    """End on SIGTERM, and when the daemon at the other end of standard input is gone, even by SIGKILL.

    At once and without clean-up: nothing that this process has written counts before it has ended well.
    """

    def watch_daemon() -> None:
        while os.read(sys.stdin.fileno(), 1):  # unbuffered: a buffer's lock would be held at exit
            pass
        os._exit(STOPPED)

    signal.signal(signal.SIGTERM, lambda *_: os._exit(STOPPED))
    if not sys.stdin.isatty():
        threading.Thread(target=watch_daemon, daemon=True).start()
