"""The folders in which versions come into being: sessions' candidates, rejected ones, imports and reproductions.

What lives here: lending these folders, putting a refused candidate aside, removing what a kill has left. What never
does: complete versions; a crash in here costs nothing.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from lorad.errors import TransientError
from lorad.storage import files, locks
from lorad.versions import papers


class Workspace:
    """What lies beside the versions of one track, in ``models/<track>``."""

    def __init__(self, track: Path) -> None:
        self.candidates = track / "candidates"
        self.rejected = track / "rejected"
        self._adopting = track / "adopting"
        self._reproduced = track / "reproduced"

    def unfinished_jobs(self) -> list[tuple[int, Path]]:
        """Return what sessions left among the candidates: job and folder."""
        return _by_job(self.candidates)

    def rejected_jobs(self) -> list[tuple[int, Path]]:
        """Return the refused candidates: job and folder."""
        return _by_job(self.rejected)

    def newest_job(self) -> int:
        """Return the highest number of a job that left something here, else 0."""
        return max([0, *(number for number, _ in self.unfinished_jobs() + self.rejected_jobs())])

    def reject(self, candidate: Path, job: int) -> Path:
        """Keep a refused candidate, with its numbers, out of the way."""
        target = self.rejected / f"job-{job}"
        files.remove(target)
        files.rename(candidate, target)
        return target

    def prune_rejected(self, keep: int) -> None:
        """Remove all but the newest refused candidates."""
        found = self.rejected_jobs()
        for _, folder in found[: max(0, len(found) - keep)]:
            files.remove(folder)

    def remove_unfinished(self) -> None:
        """Remove what a killed process left of an import or a reproduction, including the examples."""
        for made in (self._adopting / papers.CANDIDATE, self._reproduced / ".made"):
            if made.exists():
                # where somebody is at it, he removes it in the end
                with contextlib.suppress(TransientError), locks.locked(made.parent / ".lock", wait=False):
                    files.remove(made)

    @contextlib.contextmanager
    def adopting(self) -> Iterator[Path]:
        """Lend a folder for an imported candidate, and remove it afterwards.

        One at a time, so that what a kill has left of an earlier one can be told from what somebody makes now.
        """
        with locks.locked(self._adopting / ".lock", wait=False):
            candidate = self._adopting / papers.CANDIDATE
            files.remove(candidate)
            try:
                yield candidate
            finally:
                files.remove(candidate)

    @contextlib.contextmanager
    def reproducing(self, version: str, *, keep: bool) -> Iterator[Path]:
        """Lend a folder for reproducing a version; a kept result replaces the previous one.

        One at a time, see ``adopting``.
        """
        with locks.locked(self._reproduced / ".lock", wait=False):
            folder = self._reproduced / ".made"
            files.remove(folder)
            try:
                yield folder
                if keep:
                    files.remove(self._reproduced / version)
                    files.rename(folder, self._reproduced / version)
            finally:
                files.remove(folder)


def _by_job(folder: Path) -> list[tuple[int, Path]]:
    found = [path for path in folder.glob("job-*") if path.name[4:].isdecimal()]
    return sorted((int(path.name[4:]), path) for path in found)
