"""A version's papers: the names of its files beside the adapter, and what its session measured.

What lives here: those names, and reading and writing ``evaluation.json``. What never does: the manifest (``store``).
A candidate has the same papers; they are never changed once it is a version.
"""

from pathlib import Path

from lorad import records
from lorad.records import SessionResult
from lorad.storage import files

CANDIDATE = "candidate"
"""The folder, beside a session's request, that becomes a version."""
CONFIG = "config.yaml"
EVALUATION = "evaluation.json"
METADATA = "metadata.json"


def read_result(folder: Path) -> SessionResult:
    """Return what a session said of the candidate in a folder; raise ``OSError`` or ``ValueError``."""
    return records.restore(SessionResult, files.read_json(folder / EVALUATION))


def write_result(folder: Path, result: SessionResult) -> None:
    """Write what a session says of its candidate: without it there is none, so it comes last."""
    files.write_json(folder / EVALUATION, records.as_json(result))
