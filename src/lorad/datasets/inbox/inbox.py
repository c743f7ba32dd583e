"""The inbox folder. Which files are complete, and opening them.

What lives here: looking at the folder, deciding that a file has come to rest, having it moved to where it belongs
(``drop_folders``), its sidecar with it. What never does: reading rows (``reader``), remembering (``ledger``).

Others may write to the inbox, so whatever is in it is opened and moved in a directory that is open, never by a path,
and never through a link.

A file is complete when its size and time of change have rested for ``settle_seconds``, or at once when the
system said that it was renamed into place, and nobody is seen to have it open for writing. That a writer closed
it proves nothing (it may open it again), and macOS does not even tell. Events only make things faster: what they
miss, the periodic scan finds.
"""

import contextlib
import fnmatch
import heapq
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from lorad.config import InboxSettings
from lorad.datasets import sidecar
from lorad.datasets.inbox import drop_folders, old_folders
from lorad.datasets.inbox.drop_folders import REASON, Drops, InboxFile, local_date
from lorad.errors import SampleError, TransientError
from lorad.storage import files
from lorad.storage.directories import Folder
from lorad.storage.fault_points import step
from lorad.storage.file_names import readable
from lorad.storage.open_files import open_for_writing
from lorad.storage.source import Signature, Source, opened

__all__ = [
    "REASON",
    "Inbox",
    "InboxFile",
    "RejectedEntry",
    "Taken",
    "passed_by",
    "readable",
    "unchanged",
]

#: What lies beside a dataset for people to read, whatever its ending.
_PAPERS = (
    *(
        name + rest
        for name in ("README", "LICENSE", "LICENCE")
        for rest in ("", ".md", ".txt", ".*", "-*", "_*")
    ),
    *(name + rest for name in ("COPYING", "NOTICE") for rest in ("", ".md", ".txt")),
)

#: An ending that says that rows are inside, so that ``license_questions.csv`` is no paper.
_ROWS = re.compile(r"\.(jsonl?|ndjson|csv|tsv|parquet)(\.gz)?$", re.IGNORECASE)

#: Names of files that other programs are still writing, or that are not meant for us; in any case, as the systems
#: that write them have it.
IGNORED = (
    ".*",
    "~*",
    "*~",
    "#*#",
    "*.part",
    "*.partial",
    "*.filepart",
    "*.crdownload",
    "*.opdownload",
    "*.download",
    "*.aria2",
    "*.tmp",
    "*.swp",
    "*.sb-*",
    "*.lock",
    "*.lck",
    "4913",  # vim tries whether it may write here
    # what somebody kept of a file that he changed
    "*.bak",
    "*.orig",
    "*.old",
    # what Windows and macOS say about a file; WSL may write the colon as U+F03A
    "*[:\uf03a]Zone.Identifier",
    "*[:\uf03a]SmartScreen",
    "*[:\uf03a]encryptable",
    "*[:\uf03a]AFP_*",
    "*[:\uf03a]com.apple.*",
    "*[:\uf03a]com.dropbox.*",
    # what they, and network drives, put into every folder
    "Icon\r",
    "Thumbs.db",
    "desktop.ini",
    "@eaDir",
    "@Recycle",
    "#recycle",
    "$RECYCLE.BIN",
    "System Volume Information",
    "__MACOSX",
    "lost+found",
    # checksums and signatures
    "*.md5",
    "*.sha1",
    "*.sha224",
    "*.sha256",
    "*.sha384",
    "*.sha512",
    "*.md5sum",
    "*.sha*sum",
    "*.crc",
    "*.crc32",
    "*.sfv",
    "*.asc",
    "*.sig",
    "*.minisig",
    *(
        f"{kind}{ending}"
        for kind in ("MD5SUM", "SHA1SUM", "SHA224SUM", "SHA256SUM", "SHA384SUM", "SHA512SUM", "CHECKSUM")
        for ending in ("", "S", ".txt", "S.txt")
    ),
    # what programs say about a dataset
    "_SUCCESS",
    "_committed_*",
    "_started_*",
    "_metadata",
    "_common_metadata",
    "dataset_info.json",
    "dataset_infos.json",
    "dataset_dict.json",
    "dataset-metadata.json",
    "datapackage.json",
    "croissant.json",
    "*.reason.json",
    *_PAPERS,
)
_IGNORED = re.compile("|".join(fnmatch.translate(pattern) for pattern in IGNORED), re.IGNORECASE)

#: Names in the inbox that are not people's: the links to where files end, and what an older lorad had there.
OWN_NAMES = ("processing", "done", "failed")

#: Those that are links, for people.
SIGNPOSTS = ("done", "failed")

#: What a directory may hold beside files, folders and sidecars.
_KINDS = (
    (stat.S_ISLNK, "a symbolic link"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)

#: A sidecar without a file is spoken of when it has waited so long; its file may still be under way.
LONE_SECONDS = 60.0

#: A file whose end is missing rests so many times as long as others: whoever writes it may only be slow.
PATIENCE = 6

#: Bytes of a file's end that tell whether it is one.
TAIL = 64

#: How files begin that do not end like a text: gzip, Parquet.
_PACKED = (b"\x1f\x8b", b"PAR1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """A taken file that is open, with its sidecar, if it has one."""

    path: Path
    name: str
    track: str
    source: Source
    beside: Source | None

    @property
    def signature(self) -> tuple[Signature, Signature | None]:
        """Return what differs when one of the two was written to."""
        return self.source.signature, self.beside.signature if self.beside else None


@dataclass(frozen=True, slots=True)
class RejectedEntry:
    """Something that lies in the inbox and is no dataset file, and why it is not taken."""

    file: InboxFile
    error: SampleError
    is_left: bool
    """It stays where it is; otherwise it belongs into ``failed/``."""


@dataclass(slots=True)
class _Rest:
    signature: Signature
    since: float
    is_open: bool | None = None
    """Its end is missing; ``None`` until that was looked at."""


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
        self.held: dict[Path, str] = {}
        """Why a file that has come to rest is not taken yet, or a taken one not accepted."""
        self.left: dict[Path, SampleError] = {}
        """What lies in the inbox and will not be taken, as it is."""
        self._settings = settings
        self._tracks = tracks
        self._place = place
        """Where the drops' own folders are; without it, in the inbox."""
        self._open_folder = open_folder
        self._open: Folder | None = None
        self._drops: Drops | None = None
        self._refused: dict[Path, tuple[Signature, SampleError]] = {}
        """Files that could not be moved, as they were then."""
        self._resting: dict[Path, _Rest] = {}
        self._late: dict[str, _Rest] = {}
        """Files that have ended and were written to since."""
        self._complete: dict[Path, Signature] = {}
        self._has_lone = True
        self._is_told = False
        self._has_changed = True
        self._scanned_at = 0.0
        self._looked_back_at = float("-inf")
        self._news: list[RejectedEntry] = []
        self.count = 0
        """Files that lay in the inbox at the last scan."""

    def recover(self) -> list[str]:
        """Open the folders, made if they must be, and undo what a crash left between two steps of a move.

        Return what was done with the folders of an older lorad, in words.
        """
        files.make_folder(self.folder)
        inbox = self._inbox()
        place = drop_folders.beside(inbox, self._place)
        told = old_folders.move_in(inbox, place)
        self._drops = Drops(place)
        self._drops.recover(inbox.state().st_gid)
        self._make_tracks(inbox)
        self._return_sidecars()
        self._put_up()
        return told

    def _make_tracks(self, inbox: Folder) -> None:
        """Make the tracks' folders before people do: one of their own may be closed to the daemon."""
        for name in self._tracks:
            if not inbox.holds(name):
                mode = stat.S_IMODE(inbox.state().st_mode) & ~stat.S_IWOTH
                inbox.make(name, mode).close()

    def _inbox(self) -> Folder:
        """Return the inbox, opened anew where its path leads to another one."""
        status, held = self.folder.stat(), self._open
        if held is None or not os.path.samestat(held.state(), status):
            self._open = held = self._open_folder(self.folder)
        return held

    @property
    def _own(self) -> Drops:
        if self._drops is None:
            raise RuntimeError("recover() opens the folders")
        return self._drops

    @contextlib.contextmanager
    def _entered(self, path: Path) -> Iterator[Folder]:
        """Open the folder that a path lies in: the inbox, a track's, or one of the drops' own."""
        if self._drops and path.is_relative_to(self._drops.folder.path):
            with self._drops.entered(path.parent) as folder:
                yield folder
        elif path.parent == self.folder:
            yield self._inbox()
        else:
            with self._inbox().enter(path.parent.name) as folder:
                yield folder

    def _put_up(self) -> None:
        """Make the links by which people find where files end; a name that somebody else uses is passed by."""
        for name in SIGNPOSTS:
            with contextlib.suppress(OSError, TransientError):  # nothing rests on them
                self._put_up_one(self._inbox(), name)

    def _put_up_one(self, inbox: Folder, name: str) -> None:
        if self._is_up(inbox, name):
            return
        if inbox.points(name) is not None and inbox.status(name).st_uid == os.geteuid():
            inbox.remove(name)  # it leads to another place
        if not inbox.holds(name):
            inbox.link(name, self._way(name))

    def _is_up(self, inbox: Folder, name: str) -> bool:
        return name in SIGNPOSTS and inbox.points(name) == self._way(name)

    def _way(self, name: str) -> str:
        return os.path.relpath(self._own.folder.path / name, os.path.realpath(self.folder))

    def _return_sidecars(self) -> None:
        """Put a sidecar that was taken before its file could be beside it again: it says how to read the file.

        A sidecar goes in first and out first, so one that lies alone in ``processing/`` has lost its file there.
        """
        lone = self._own.lone_sidecars(self._tracks)
        there = [*(item.path for item in self._files()), *self._taken_paths()] if lone else []
        for path in lone:
            # what its owner lets nobody move stays, and keeps nothing from its turn
            with contextlib.suppress(OSError):
                self._return_sidecar(path, there)
        self._has_lone = False

    def _return_sidecar(self, path: Path, there: Sequence[Path]) -> None:
        homes = (sidecar.path_of(file) for file in there)
        home = next((home for home in homes if home.name == path.name and not files.is_there(home)), None)
        with self._entered(path) as source:
            if home:
                with self._entered(home) as into:
                    source.rename(path.name, into, home.name)
            else:  # somebody took its file away
                done = self._own.done
                source.rename(path.name, done, done.free_name(path.name))
        with self._own.entered(path.parent.parent) as above:
            above.remove_empty(path.parent.name)

    def _taken_paths(self) -> list[Path]:
        return [item.path for item in self.processing()]

    # -- looking

    def rely_on_events(self) -> None:
        """From now on look when something was told of or is due, and not every time."""
        self._is_told = True

    def look(self) -> None:
        """Note that something changed."""
        self._has_changed = True

    def waiting(self) -> list[InboxFile]:
        """Return the regular files that lie in the inbox and in its tracks' folders, the oldest ``max_waiting``.

        What will not be taken as it is does not wait; nor does what cannot be listed, which a look tells of.
        """
        with contextlib.suppress(OSError):
            return self._oldest(file for file in self._files() if file.path not in self.left)
        return []

    def _oldest(self, found: Iterable[InboxFile]) -> list[InboxFile]:
        most = self._settings.max_queued_files  # of a million only so many are held in memory
        return heapq.nsmallest(most, found, key=lambda item: (item.changed_at, item.path.name))

    def _files(self) -> Iterator[InboxFile]:
        return (file for file, mode in self._entries() if self._is_dataset(file, mode))

    def _is_dataset(self, file: InboxFile, mode: int) -> bool:
        """Tell whether it may hold rows: a regular file that is no sidecar, and not in the way of a name of ours."""
        return (
            stat.S_ISREG(mode)
            and not file.path.name.endswith(sidecar.SUFFIX)
            and not self._is_ours(file.path)
        )

    def _counted(self, others: list[tuple[InboxFile, int, SampleError]]) -> Iterator[InboxFile]:
        """Count the files while they pass, and put aside what is none and why."""
        count = 0
        for file, mode in self._entries():
            if not self._is_dataset(file, mode):
                if error := self._why_not(file, mode):
                    others.append((file, mode, error))
            elif error := self._why_refused(file.path):
                others.append((file, mode, error))
            else:
                count += 1
                yield file
        self.count = count

    def _entries(self) -> Iterator[tuple[InboxFile, int]]:
        for folder, path, track in self._places():
            # one that cannot be listed to its end keeps the others from nothing
            with contextlib.suppress(*((OSError,) if path != self.folder else ())):
                for name, status in folder.entries(unless=passed_by):
                    file = InboxFile(path / name, track, status.st_size, status.st_mtime)
                    yield file, status.st_mode  # a link could leave the inbox; devices and pipes could block

    def _places(self) -> Iterator[tuple[Folder, Path, str]]:
        try:
            inbox = self._inbox()
        except (FileNotFoundError, NotADirectoryError):
            return
        yield inbox, self.folder, self._tracks[0]
        for track in self._tracks:
            folder = self._track(inbox, track)
            if folder:
                with folder:
                    yield folder, self.folder / track, track

    def _track(self, inbox: Folder, track: str) -> Folder | None:
        """Open a track's folder, if it is one on the inbox's file system (a link could lead anywhere) and not closed."""
        try:
            folder = inbox.enter(track)
        except OSError:
            return None
        if folder.takes_from(inbox) and folder.is_usable():
            return folder
        folder.close()
        return None

    def hint_complete(self, path: Path) -> None:
        """Note that a file was renamed into place; what is written into it afterwards makes the note void."""
        if path.parent in {self.folder, *(self.folder / track for track in self._tracks)}:
            with contextlib.suppress(OSError):  # gone meanwhile
                self._complete[path] = _signature(path)

    def settled(self, now: float, most: int | None = None) -> list[InboxFile]:
        """Return the files that are complete at ``now`` (monotonic seconds), each with the track that learns it.

        Of more than ``most``, which will be taken, the sidecars are not read yet: each look would read all of them.
        """
        if self._drops is None or not self._is_due(now):
            return []
        if self._has_lone:
            self._return_sidecars()
        self._has_changed, self._scanned_at = False, now
        self._put_up()
        hints = list(self._complete)  # what the watcher's thread tells from here on is for the next look
        others: list[tuple[InboxFile, int, SampleError]] = []
        ready, troubles = self._ready(self._oldest(self._counted(others)), now)
        writers = open_for_writing([item.path for item in ready])
        self._hold(writers, now)
        strangers = [*self._find_strangers(others, now), *troubles, *self._find_closed()]
        self._news += [stranger for stranger in strangers if stranger.file.path not in self.left]
        self.left = {stranger.file.path: stranger.error for stranger in strangers if stranger.is_left}
        self._resting = {path: rest for path, rest in self._resting.items() if self._is_awaited(path)}
        self._refused = {path: why for path, why in self._refused.items() if files.is_there(path)}
        for path in hints:
            if not files.is_there(path):
                self._complete.pop(path, None)
        ready = [item for item in ready if item.path not in writers]
        return [replace(item, track=self._named_track(item)) for item in ready[:most]] + ready[
            len(ready[:most]) :
        ]

    def _ready(
        self, waiting: Iterable[InboxFile], now: float
    ) -> tuple[list[InboxFile], list["RejectedEntry"]]:
        """Return the files that are complete, and those of which that cannot be known: each for itself."""
        ready, troubles = [], []
        for item in waiting:
            try:
                if self._is_ready(item, now):
                    ready.append(item)
            except Exception as error:  # noqa: BLE001 - whatever it is, the other files have their turn
                told = f"{item.name} cannot be looked at ({type(error).__name__}); drop it again under another name"
                troubles.append(RejectedEntry(item, SampleError(told, code="unexpected"), is_left=True))
        return ready, troubles

    def _hold(self, writers: Mapping[Path, int], now: float) -> None:
        """Note why files are not taken yet, or what was taken is not accepted."""
        held = {
            path: why for path, why in self.held.items() if self._is_processing(path) and files.is_there(path)
        }
        late = f"its end is missing; it is taken when it has rested {PATIENCE} times as long as other files"
        settle = self._settings.settle_seconds
        held |= {
            path: late for path, r in self._resting.items() if r.is_open and now - r.since < PATIENCE * settle
        }
        self.held = held | {path: f"process {pid} has it open for writing" for path, pid in writers.items()}

    def _is_due(self, now: float) -> bool:
        is_rescan = now - self._scanned_at >= self._settings.rescan_seconds
        return bool(not self._is_told or self._has_changed or self._resting or is_rescan)

    def _is_ready(self, item: InboxFile, now: float) -> bool:
        beside = sidecar.path_of(item.path)
        has_rested = not files.is_there(beside) or self._rests(beside, now)
        return self._rests(item.path, now) and has_rested and not self._wants_patience(item.path, now)

    def _rests(self, path: Path, now: float, seconds: float | None = None) -> bool:
        try:
            signature = _signature(path)
        except OSError:
            return False
        rest = self._resting.get(path)
        if rest is None or rest.signature != signature:
            self._resting[path] = rest = _Rest(signature, now)
        is_told = self._complete.get(path) == signature
        return is_told or now - rest.since >= (seconds or self._settings.settle_seconds)

    def _wants_patience(self, path: Path, now: float) -> bool:
        """Tell whether a file that rests has no end and has not rested long for that."""
        rest = self._resting[path]
        if self._complete.get(path) == rest.signature:  # renamed into place: its writer meant it
            return False
        return self._is_unfinished(path, rest, now)

    def _is_unfinished(self, path: Path, rest: _Rest, now: float) -> bool:
        if now - rest.since >= PATIENCE * self._settings.settle_seconds:
            return False
        if rest.is_open is None:
            rest.is_open = self._has_no_end(path)
        return rest.is_open

    def _has_no_end(self, path: Path) -> bool:
        with (
            contextlib.suppress(SampleError, OSError),  # it is told of when it is read
            self._entered(path) as folder,
            opened(path.name, folder=folder.descriptor) as source,
        ):
            return _ends_open(source)
        return False

    def _is_awaited(self, path: Path) -> bool:
        """Tell whether something still has to be waited for."""
        return files.is_there(path) and path not in self.left

    def _is_processing(self, path: Path) -> bool:
        return self._drops is not None and path.is_relative_to(self._drops.processing.path)

    # -- what is not taken

    def strangers(self) -> list[RejectedEntry]:
        """Return what was found to be no dataset file; each is told of once while it lies there."""
        news, self._news = self._news, []
        return news

    def leave(self, path: Path, error: SampleError) -> None:
        """Note that a file cannot be moved: it is left, and told of, until it is another one."""
        with contextlib.suppress(OSError):
            self._refused[path] = _signature(path), error
        self.held.pop(path, None)

    def _why_refused(self, path: Path) -> SampleError | None:
        signature, error = self._refused.get(path, (None, None))
        if error is None:
            return None
        with contextlib.suppress(OSError):
            if _signature(path) == signature:
                return error
        return None

    def _find_strangers(
        self, others: Iterable[tuple[InboxFile, int, SampleError]], now: float
    ) -> Iterator[RejectedEntry]:
        for file, mode, error in others:
            seconds = LONE_SECONDS if error.code == "lone_sidecar" else None
            if file.path in self.left or self._rests(file.path, now, seconds):
                yield RejectedEntry(file, error, is_left=self._is_left(file, mode))

    def _is_left(self, file: InboxFile, mode: int) -> bool:
        has_name = self._is_ours(file.path) or self._is_track(file.path)
        return stat.S_ISREG(mode) or stat.S_ISDIR(mode) or has_name or bool(self._why_refused(file.path))

    def _find_closed(self) -> Iterator[RejectedEntry]:
        """Return the folders of taken files that cannot be looked into: the daemon's own, so somebody changed them."""
        for path, error in self._own.survey(self._tracks)[1]:
            told = f"{path} cannot be looked into ({error.strerror}), so what was taken into it waits; open or remove it"
            stranger = InboxFile(path, path.parent.name, 0, 0.0)
            yield RejectedEntry(stranger, SampleError(told, code="closed_folder"), is_left=True)

    def _is_track(self, path: Path) -> bool:
        return path.parent == self.folder and path.name in self._tracks

    def _is_ours(self, path: Path) -> bool:
        return path.parent == self.folder and path.name in OWN_NAMES

    def _why_not(self, file: InboxFile, mode: int) -> SampleError | None:
        if self._is_ours(file.path):
            return self._why_in_the_way(file)
        if stat.S_ISREG(mode):
            return self._why_lone(file)
        return self._why_closed(file) if self._is_track(file.path) else self._why_strange(file, mode)

    def _why_in_the_way(self, file: InboxFile) -> SampleError | None:
        if self._is_up(self._inbox(), file.path.name):
            return None
        where = self._own.folder.path
        told = f"is not lorad's and is passed by; what was taken is in {where}. Remove it: rm -r"
        return SampleError(f"{file.name} in the inbox {told} {file.path}", code="reserved_name")

    def _why_lone(self, file: InboxFile) -> SampleError | None:
        data = file.path.with_name(file.path.name.removesuffix(sidecar.SUFFIX))
        if files.is_there(data):
            return None
        return SampleError(
            f"{file.name} waits for {readable(data.name)}; if that was taken before, drop both again, this one first",
            code="lone_sidecar",
        )

    def _why_strange(self, file: InboxFile, mode: int) -> SampleError:
        if stat.S_ISDIR(mode):
            tracks = ", ".join(self._tracks)
            told = f"is a folder and names no track (there is: {tracks}); put its files into the inbox itself"
            return SampleError(f"{file.name} {told}", code="no_such_track")
        kind = next((name for is_kind, name in _KINDS if is_kind(mode)), "no file")
        return SampleError(
            f"{file.name} is {kind} and was not opened; drop a copy of the file", code="no_file"
        )

    def _why_closed(self, file: InboxFile) -> SampleError | None:
        inbox, name = self._inbox(), file.path.name
        folder = self._track(inbox, name)
        if folder:
            folder.close()
            return None
        with contextlib.suppress(OSError):
            status = inbox.status(name)
            if stat.S_ISDIR(status.st_mode) and status.st_dev == inbox.state().st_dev:
                told = (
                    "is closed to the daemon, so nothing in it is taken; its owner opens it with: chmod g+rwx"
                )
                return SampleError(f"the track's folder {name} {told} {file.path}", code="closed_folder")
        told = (
            "is a link or another file system; make it a folder of the inbox itself, or link the whole inbox"
        )
        return SampleError(f"the track's folder {name} {told}", code="foreign_folder")

    # -- taking and opening

    def take(self, item: InboxFile, drop: int) -> Path:
        """Move a complete file into ``processing/<track>/<drop>/``, its sidecar first, out of its writer's reach."""
        target = self._own.path(item.track, drop) / item.name
        if item.path == target:
            return target  # an earlier try moved it and then could not be told to the ledger
        beside = sidecar.path_of(item.path).name
        with self._entered(item.path) as source, self._own.made(item.track, drop) as into:
            had_lone = self._has_lone
            if source.holds(beside):
                _require_no_folder(source, beside)
                self._has_lone = True  # until its file is there as well, whatever happens
                source.rename(beside, into, sidecar.path_of(target).name)
            source.rename(item.path.name, into, item.name)
            self._has_lone = had_lone
        if self._is_processing(item.path):
            self._tidy(item.path)
        return target

    def take_back(self, place: str, name: str, track: str, drop: int) -> None:
        """Move a file that has ended, and was written to since, into the folder of another drop."""
        self._own.take_back(place, name, track, drop)
        self._late.pop(place, None)

    def _named_track(self, item: InboxFile) -> str:
        """Return the track that a sidecar names; a sidecar that cannot be read is refused when the file is."""
        name = sidecar.path_of(item.path).name
        with (
            contextlib.suppress(Exception),
            self._entered(item.path) as folder,
            opened(name, folder=folder.descriptor) as source,
        ):
            named = sidecar.read(source).track
            return named if named in self._tracks else item.track
        return item.track

    def processing(self) -> list[InboxFile]:
        """Return the files that were taken and have no end yet, in order of taking; after a crash these come first."""
        return self._drops.survey(self._tracks)[0] if self._drops else []

    @contextlib.contextmanager
    def opened(self, file: InboxFile) -> Iterator[Taken]:
        """Open a taken file and its sidecar, once; raise ``SampleError`` for what is no plain file that it may read."""
        with contextlib.ExitStack() as stack:
            folder = stack.enter_context(self._entered(file.path))
            beside = sidecar.path_of(file.path).name
            yield Taken(
                path=file.path,
                name=file.name,
                track=file.track,
                source=self._source(stack, folder, file.path.name),
                beside=self._source(stack, folder, beside) if folder.holds(beside) else None,
            )

    def _source(self, stack: contextlib.ExitStack, folder: Folder, name: str) -> Source:
        try:
            source = stack.enter_context(opened(name, folder=folder.descriptor))
        except PermissionError:
            told = "cannot be read by the daemon; let its group read it (chmod g+r) and drop it again"
            raise SampleError(f"{readable(name)} {told}", code="unreadable") from None
        self._require_copy(source)
        _close_to_others(source)
        return source

    def _require_copy(self, source: Source) -> None:
        """Refuse a second name of a file that whoever dropped it may not be able to read."""
        status, me = os.fstat(source.descriptor), os.geteuid()
        is_mine = me in {0, status.st_uid}
        if status.st_nlink > 1 and is_mine and self._inbox().is_open_to_others():
            told = "is a hard link to a file that lies elsewhere as well, and was not read; drop a copy of the file"
            raise SampleError(f"{readable(source.name)} {told}", code="hard_link")

    # -- where each one ends

    def place_of(self, path: Path, now: float) -> str:
        """Return where ``finish`` moves a file, below the folder of the drops' own folders."""
        return self._own.place_done(path.name, now)

    def finish(self, path: Path, now: float) -> Path:
        """Move an accepted file to ``done/<date>/``, the date of this place."""
        return self._end(path, self._own.place_done(path.name, now))

    def place_of_failed(self, path: Path) -> str:
        """Return where ``fail`` moves a file."""
        return self._own.place_failed(path.name)

    def fail(self, path: Path, reason: dict[str, Any]) -> Path:
        """Move a file to ``failed/``; its reason is there before it."""
        place = self._own.place_failed(path.name)
        self._own.tell(place, reason)
        return self._end(path, place)

    def _end(self, path: Path, place: str) -> Path:
        with self._entered(path) as source:
            target = self._own.end(source, path.name, place)
        if self._is_processing(path):
            self._tidy(path)
        return target

    def _tidy(self, path: Path) -> None:
        """Remove the folder of a drop whose file has gone."""
        with self._own.entered(path.parent.parent) as above:
            above.remove_empty(path.parent.name)

    def prune_done(self, now: float) -> list[str]:
        """Remove the days of ``done/`` that ``keep_done_days`` lets go, and nothing that a person put there; return them."""
        days = self._settings.keep_done_days
        return [] if days is None else self._own.prune(local_date(now) - timedelta(days))

    # -- what was written to after it was read

    def is_to_look_back(self, now: float) -> bool:
        """Tell whether files that have ended are to be looked at again."""
        return bool(self._late) or now - self._looked_back_at >= self._settings.rescan_seconds

    def changed(self, ended: Mapping[str, Signature], now: float) -> list[str]:
        """Return where files lie that are other than they were read, and have come to rest again."""
        self._looked_back_at = now
        found = {place: self._own.signature(place) for place in ended}
        late = {}
        for place, signature in found.items():
            # another file of that name is none of ours
            if signature and signature != ended[place] and signature[2] == ended[place][2]:
                rest = self._late.get(place)
                late[place] = rest if rest and rest.signature == signature else _Rest(signature, now)
        self._late = late
        return [place for place, rest in late.items() if self._has_ended(place, rest, now)]

    def _has_ended(self, place: str, rest: _Rest, now: float) -> bool:
        path = self._own.folder.path / place
        has_rested = now - rest.since >= self._settings.settle_seconds
        return has_rested and not self._is_unfinished(path, rest, now) and not open_for_writing([path])


def passed_by(name: str) -> str | None:
    """Return the pattern by which a file of this name is left where it lies, ``None`` when it is taken."""
    if not _IGNORED.match(name):  # a folder may hold a million
        return None
    small = name.lower()
    # there are letters that are another one in small, and are not made small: \u017f is an s
    found = next((pattern for pattern in IGNORED if fnmatch.fnmatchcase(small, pattern.lower())), None)
    return None if found in _PAPERS and _ROWS.search(name) else found


@contextlib.contextmanager
def unchanged(taken: Taken) -> Iterator[None]:
    """Raise ``TransientError`` when a file changed while it was read, or somebody can still write to it."""
    before = taken.signature
    try:
        yield
    except SampleError:
        _require_rest(taken, before)  # half a file is no fault of its rows
        raise
    _require_rest(taken, before)


def _require_rest(taken: Taken, before: object) -> None:
    if taken.signature != before:
        raise TransientError(f"{taken.name} changed while it was read; it is read again", code="changed")
    if pid := open_for_writing([taken.path]).get(taken.path):
        raise TransientError(
            f"{taken.name} is open for writing by process {pid}; it is read again", code="changed"
        )


def _require_no_folder(folder: Folder, name: str) -> None:
    """Refuse a folder in a sidecar's place: its owner decides whether it can be moved, and where it can not."""
    if stat.S_ISDIR(folder.status(name).st_mode):
        told = "is a folder where a sidecar would be; remove it, then drop its file again"
        raise SampleError(f"{readable(name)} {told}", code="no_file")


def _close_to_others(source: Source) -> None:
    """Take from others what the umask of whoever dropped a file has given them, where it is this user's own file."""
    status = os.fstat(source.descriptor)
    mode = stat.S_IMODE(status.st_mode)
    if mode & stat.S_IRWXO and status.st_uid == os.geteuid() and status.st_nlink == 1:
        with contextlib.suppress(OSError), step("chmod", source.name):  # not every file system keeps modes
            os.fchmod(source.descriptor, mode & ~stat.S_IRWXO)


def _signature(path: Path) -> Signature:
    status = path.lstat()
    return status.st_size, status.st_mtime_ns, status.st_ino


def _ends_open(source: Source) -> bool:
    """Tell whether a text ends inside a line; of a list or an object the last sign is an end, too."""
    with source.open() as stream:
        if stream.read(4).startswith(_PACKED):
            return False
        stream.seek(max(0, source.size - TAIL))
        end = stream.read(TAIL).rstrip(b"\0 \t")  # two bytes a sign, perhaps
    return end[-1:] not in {b"\n", b"\r", b"}", b"]"}
