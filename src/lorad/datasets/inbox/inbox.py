"""The inbox folder: which files are complete, and where each one goes.

What lives here: one scan of the folder, and having files moved to where they belong (``drop_folders``), their sidecars
with them. What never does: reading rows (``reader``), remembering (``ledger``).

A file is taken when it is complete (``settling``) and nobody is seen to have it open for writing. Events only make
things faster: what they miss, the periodic scan finds.
"""

import contextlib
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from lorad.config import InboxSettings
from lorad.datasets import sidecar
from lorad.datasets.inbox import rejected_entries, sidecars
from lorad.datasets.inbox.drop_folders import InboxFile, local_date
from lorad.datasets.inbox.inbox_folders import InboxFolders, oldest
from lorad.datasets.inbox.late_changes import LateChanges
from lorad.datasets.inbox.rejected_entries import RejectedEntry, datasets
from lorad.datasets.inbox.settling import PATIENCE, Settling, signature
from lorad.datasets.inbox.taken_files import Taken, open_taken
from lorad.errors import SampleError
from lorad.storage import files
from lorad.storage.directories import Folder
from lorad.storage.file_names import readable
from lorad.storage.open_files import open_for_writing
from lorad.storage.source import Signature

#: A sidecar without a file is spoken of when it has waited so long; its file may still be under way.
LONE_SECONDS = 60.0


class Inbox:
    """The folder that people drop files into."""

    def __init__(
        self,
        folder: Path,
        settings: InboxSettings,
        tracks: tuple[str, ...],
        place: Path | None = None,
        open_folder: Callable[[Path], Folder] = Folder.open,
    ) -> None:
        self.folder = folder
        self.delayed: dict[Path, str] = {}
        """Why a settled file is not taken yet, or a taken one not accepted."""
        self.not_taken: dict[Path, SampleError] = {}
        """Entries of the inbox that will not be taken."""
        self.count = 0
        """Number of files in the inbox at the last scan."""
        self._settings = settings
        self._most = settings.max_queued_files
        self._folders = InboxFolders(folder, tracks, place, open_folder)
        self._settling = Settling(settings.settle_seconds, self._folders.entered)
        self._late = LateChanges(settings, self._folders, self._settling)
        self._unmovable: dict[Path, tuple[Signature, SampleError]] = {}
        """Files that could not be moved, with their state at that time."""
        self._has_lone = True
        self._has_events = False
        self._has_changed = True
        self._scanned_at = 0.0
        self._news: list[RejectedEntry] = []

    def recover(self) -> list[str]:
        """Open or create the folders, and complete or undo moves that a crash interrupted.

        Return what was done with the folders of an older lorad, in words.
        """
        told = self._folders.recover()
        self._put_back_sidecars()
        self._folders.put_up()
        return told

    def _put_back_sidecars(self) -> None:
        sidecars.put_back(
            self._folders,
            lambda: [item.path for item in (*datasets(self._folders), *self.processing())],
        )
        self._has_lone = False

    # -- scanning

    def rely_on_events(self) -> None:
        """From now on scan only after events or when a scan is due."""
        self._has_events = True

    def request_scan(self) -> None:
        """Record that something changed."""
        self._has_changed = True

    def hint_complete(self, path: Path) -> None:
        """Record that a file was renamed into the inbox."""
        if self._folders.holds(path):
            self._settling.note_renamed(path)

    def waiting(self) -> list[InboxFile]:
        """Return the regular files that lie in the inbox and in its tracks' folders, the oldest ``max_queued_files``.

        What will not be taken as it is does not wait; nor does what cannot be listed, which a scan tells of.
        """
        with contextlib.suppress(OSError):
            found = datasets(self._folders)
            return oldest((file for file in found if file.path not in self.not_taken), self._most)
        return []

    def settled(self, now: float, most: int | None = None) -> list[InboxFile]:
        """Return the files that are complete at ``now`` (monotonic seconds), each with the track that learns it.

        Of more than ``most``, which will be taken, the sidecars are not read yet: each scan would read all of them.
        """
        if not self._folders.is_open or not self._is_due(now):
            return []
        if self._has_lone:
            self._put_back_sidecars()
        self._has_changed, self._scanned_at = False, now
        self._folders.put_up()
        ready = self._scan(now)
        named = len(ready[:most])
        return [sidecars.with_named_track(self._folders, item) for item in ready[:named]] + ready[named:]

    def _is_due(self, now: float) -> bool:
        is_rescan = now - self._scanned_at >= self._settings.rescan_seconds
        return bool(not self._has_events or self._has_changed or self._settling.resting or is_rescan)

    def _scan(self, now: float) -> list[InboxFile]:
        """Return the files that are complete and not open for writing; record what is held back and what is rejected."""
        notes = list(
            self._settling.renamed
        )  # what the watcher's thread tells from here on is for the next scan
        others: list[tuple[InboxFile, int, SampleError]] = []
        ready, troubles = self._settling.ready(oldest(self._counted(others), self._most), now)
        writers = open_for_writing([item.path for item in ready])
        self._note_delayed(writers, now)
        rejected = [
            *self._find_rejected(others, now),
            *(rejected_entries.unreadable(file, error) for file, error in troubles),
            *rejected_entries.closed_folders(self._folders),
        ]
        self._news += [entry for entry in rejected if entry.file.path not in self.not_taken]
        self.not_taken = {entry.file.path: entry.error for entry in rejected if entry.is_left}
        self._settling.forget(lambda path: files.is_there(path) and path not in self.not_taken, notes)
        self._unmovable = {path: why for path, why in self._unmovable.items() if files.is_there(path)}
        return [item for item in ready if item.path not in writers]

    def _counted(self, others: list[tuple[InboxFile, int, SampleError]]) -> Iterator[InboxFile]:
        """Count the files, and collect what is not a file with the reason."""
        count = 0
        for file, mode in self._folders.entries():
            is_dataset = rejected_entries.is_dataset(self._folders, file, mode)
            error = (
                self._why_unmovable(file.path)
                if is_dataset
                else rejected_entries.why_rejected(self._folders, file, mode)
            )
            if error:
                others.append((file, mode, error))
            elif is_dataset:
                count += 1
                yield file
        self.count = count

    def _note_delayed(self, writers: Mapping[Path, int], now: float) -> None:
        """Record why files are not taken yet, or not accepted."""
        delayed = {
            path: why
            for path, why in self.delayed.items()
            if self._folders.is_processing(path) and files.is_there(path)
        }
        late = f"its end is missing; it is taken when it has rested {PATIENCE} times as long as other files"
        delayed |= dict.fromkeys(self._settling.without_end(now), late)
        self.delayed = delayed | {
            path: f"process {pid} has it open for writing" for path, pid in writers.items()
        }

    # -- what is not taken

    def rejected(self) -> list[RejectedEntry]:
        """Return entries that are not dataset files; each is reported once."""
        news, self._news = self._news, []
        return news

    def leave(self, path: Path, error: SampleError) -> None:
        """Record that a file cannot be moved: it is left and reported until it changes."""
        with contextlib.suppress(OSError):
            self._unmovable[path] = signature(path), error
        self.delayed.pop(path, None)

    def _why_unmovable(self, path: Path) -> SampleError | None:
        then, error = self._unmovable.get(path, (None, None))
        if error is None:
            return None
        with contextlib.suppress(OSError):
            if signature(path) == then:
                return error
        return None

    def _find_rejected(
        self, others: Iterable[tuple[InboxFile, int, SampleError]], now: float
    ) -> Iterator[RejectedEntry]:
        for file, mode, error in others:
            seconds = LONE_SECONDS if error.code == "lone_sidecar" else None
            if file.path in self.not_taken or self._settling.rests(file.path, now, seconds):
                stays = rejected_entries.stays(self._folders, file, mode)
                yield RejectedEntry(file, error, is_left=stays or bool(self._why_unmovable(file.path)))

    # -- taking and opening

    def take(self, item: InboxFile, drop: int) -> Path:
        """Move a complete file and its sidecars into ``processing/<track>/<drop>/``, where its writer cannot reach it."""
        drops = self._folders.drops
        target = drops.path(item.track, drop) / item.name
        if item.path == target:
            return target  # an earlier try moved it and then could not be told to the ledger
        with self._folders.entered(item.path) as source, drops.made(item.track, drop) as into:
            had_lone = self._has_lone
            for beside, to in zip(sidecar.paths_of(item.path), sidecar.paths_of(target), strict=True):
                if source.holds(beside.name):
                    _require_no_folder(source, beside.name)
                    self._has_lone = True  # until its file is there as well, whatever happens
                    source.rename(beside.name, into, to.name)
            source.rename(item.path.name, into, item.name)
            self._has_lone = had_lone
        self._tidy(item.path)
        return target

    def take_back(self, place: str, name: str, track: str, drop: int) -> None:
        """Move an ended file that was changed later into the folder of a new drop."""
        self._folders.drops.take_back(place, name, track, drop)
        self._late.forget(place)

    def processing(self) -> list[InboxFile]:
        """Return the files that were taken and have not ended, in that order; after a crash they come first."""
        return self._folders.drops.survey(self._folders.tracks)[0] if self._folders.is_open else []

    @contextlib.contextmanager
    def opened(self, file: InboxFile) -> Iterator[Taken]:
        """Open a taken file and its sidecars once; raise ``SampleError`` if it is not a readable regular file."""
        with (
            self._folders.entered(file.path) as folder,
            open_taken(file, folder, lambda: self._folders.inbox().is_open_to_others()) as taken,
        ):
            yield taken

    # -- where each one ends

    def place_of(self, path: Path, now: float) -> str:
        """Return where ``finish`` moves a file, relative to the drops' folder."""
        return self._folders.drops.place_done(path.name, now)

    def finish(self, path: Path, now: float) -> Path:
        """Move an accepted file to ``done/<date>/``, the date of this place."""
        return self._end(path, self._folders.drops.place_done(path.name, now))

    def place_of_failed(self, path: Path) -> str:
        """Return where ``fail`` moves a file."""
        return self._folders.drops.place_failed(path.name)

    def fail(self, path: Path, reason: dict[str, Any]) -> Path:
        """Move a file to ``failed/``, after its reason."""
        place = self._folders.drops.place_failed(path.name)
        self._folders.drops.tell(place, reason)
        return self._end(path, place)

    def _end(self, path: Path, place: str) -> Path:
        with self._folders.entered(path) as source:
            target = self._folders.drops.end(source, path.name, place)
        self._tidy(path)
        return target

    def _tidy(self, path: Path) -> None:
        """Remove the folder of a drop whose file has gone."""
        if self._folders.is_processing(path):
            with self._folders.drops.entered(path.parent.parent) as above:
                above.remove_empty(path.parent.name)

    def prune_done(self, now: float) -> list[str]:
        """Remove the days of ``done/`` that ``keep_done_days`` lets go, and nothing that a person put there; return them."""
        days = self._settings.keep_done_days
        return [] if days is None else self._folders.drops.prune(local_date(now) - timedelta(days))

    # -- what was written to after it was read

    def is_to_look_back(self, now: float) -> bool:
        """Tell whether ended files must be checked for changes."""
        return self._late.is_due(now)

    def changed(self, ended: Mapping[str, Signature], now: float) -> list[str]:
        """Return the paths of ended files that changed after they were read and have settled again."""
        return self._late.find(ended, now)


def _require_no_folder(folder: Folder, name: str) -> None:
    """Refuse a folder in the place of a sidecar."""
    if stat.S_ISDIR(folder.status(name).st_mode):
        told = "is a folder where a sidecar would be; remove it, then drop its file again"
        raise SampleError(f"{readable(name)} {told}", code="no_file")
