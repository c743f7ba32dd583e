"""Runs a server beside the daemon and ends it with the daemon, however that ends. A script: it imports nothing of lorad.

    python -I keeper.py COMMAND …

It holds the read end of a pipe whose other end is the daemon's. When that closes, or the server ends, the whole process group
is ended: a server leaves processes behind when only its first one dies.
"""

import os
import signal
import subprocess
import sys
import threading
import time

STOP_SECONDS = 10.0
"""A server that has not ended so long after it was asked is killed."""


def main(command: list[str]) -> None:
    """Run a command until it ends or nobody holds the other end of standard input any more."""
    # ends with its server, not before; a handler, for the server would inherit that a signal is ignored
    signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        server = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    except OSError as error:
        sys.exit(f"{command[0]} does not start: {error}")
    threading.Thread(target=_end_with_daemon, args=(server,), daemon=True).start()
    status = server.wait()
    os.write(2, f"the server ended with status {status}\n".encode())
    os.killpg(0, signal.SIGKILL)


def _end_with_daemon(server: "subprocess.Popen[bytes]") -> None:
    while os.read(0, 1):
        pass
    server.terminate()
    time.sleep(STOP_SECONDS)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main(sys.argv[1:])
