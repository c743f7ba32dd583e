"""A version's papers: the names of its files beside the adapter, and what its session measured.

What lives here: those names, reading them in today's words (``old_papers``), and writing ``evaluation.json``. What never
does: the manifest (``manifests``).
A candidate has the same papers; they are never changed once it is a version.
"""

from pathlib import Path
from typing import Any

from lorad import records
from lorad.records import SessionResult
from lorad.storage import files
from lorad.versions import old_papers

CANDIDATE = "candidate"
"""The folder, beside a session's request, that becomes a version."""
CONFIG = "config.yaml"
EVALUATION = "evaluation.json"
METADATA = "metadata.json"


def read_metadata(folder: Path) -> dict[str, Any]:
    """Return how the adapter in a folder was made; raise ``OSError`` or ``ValueError``."""
    return old_papers.metadata(_read(folder / METADATA))


def read_held_out(folder: Path) -> frozenset[str]:
    """Return the ids of what neither the session that made a version nor any before it has trained; none where no paper says."""
    try:
        return frozenset(read_metadata(folder)["materials"]["held_out"])
    except (OSError, ValueError, TypeError, KeyError):  # imported, or of an older lorad
        return frozenset()


def read_evaluation(folder: Path) -> dict[str, Any]:
    """Return what a session said, as it stands there; raise ``OSError`` or ``ValueError``."""
    return old_papers.evaluation(_read(folder / EVALUATION))


def read_result(folder: Path) -> SessionResult:
    """Return what a session said of the candidate in a folder; raise ``OSError`` or ``ValueError``."""
    return records.restore(SessionResult, read_evaluation(folder))


def write_result(folder: Path, result: SessionResult) -> None:
    """Write what a session says of its candidate: without it there is none, so it comes last."""
    files.write_json(folder / EVALUATION, records.as_json(result))


def _read(path: Path) -> dict[str, Any]:
    found = files.read_json(path)
    if not isinstance(found, dict):
        raise ValueError(f"{path.name} holds no object")  # noqa: TRY004 - told like what is no JSON
    return found
