"""A capability: the inbox folder. Which files are complete, and where each ends up.

What lives here: looking at the folder, deciding that a file has come to rest, moving it to
``processing/``, ``done/`` or ``failed/``, and its sidecar with it. What never does: reading rows (``samples``),
remembering (``ledger``).

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
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer

from lorad import files, sidecar
from lorad.config import InboxSettings
from lorad.errors import RetryLater, SampleError
from lorad.mounts import Mount, why_silent
from lorad.writers import open_for_writing

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

OWN_FOLDERS = ("processing", "done", "failed")

REASON = ".reason.json"

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

#: Seconds between two looks at a folder that no events tell of.
POLL_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Waiting:
    """A file that lies in the inbox, with the track that its folder names."""

    path: Path
    track: str
    size: int
    changed_at: float
    drop: int = 0
    """The ledger's number of the drop, once the file is taken."""

    @property
    def name(self) -> str:
        """Return its name for people and for the ledger."""
        return readable(self.path.name)


@dataclass(frozen=True, slots=True)
class Stranger:
    """Something that lies in the inbox and is no dataset file, and why it is not taken."""

    file: Waiting
    error: SampleError
    is_left: bool
    """It stays where it is; otherwise it belongs into ``failed/``."""


def readable(name: str) -> str:
    """Return a name that any text may hold: what is not UTF-8 or steers a terminal is told with marks."""
    decoded = os.fsencode(name).decode(errors="replace")
    return "".join(sign if sign.isprintable() else "\ufffd" for sign in decoded)


#: Size, time of change and number of a file: what differs when it was written to or is another one.
Signature = tuple[int, int, int]


@dataclass(slots=True)
class _Rest:
    signature: Signature
    since: float


def _is_dataset(file: Waiting, mode: int) -> bool:
    """Tell whether it may hold rows: a regular file that is no sidecar."""
    return stat.S_ISREG(mode) and not file.path.name.endswith(sidecar.SUFFIX)


class Inbox:
    """The folder that people drop files into."""

    def __init__(self, folder: Path, settings: InboxSettings, tracks: tuple[str, ...]) -> None:
        self.folder = folder
        self.held: dict[Path, str] = {}
        """Why a file that has come to rest is not taken yet, or a taken one not accepted."""
        self.left: dict[Path, SampleError] = {}
        """What lies in the inbox and will not be taken, as it is."""
        self._settings = settings
        self._tracks = tracks
        self._resting: dict[Path, _Rest] = {}
        self._complete: dict[Path, Signature] = {}
        self._has_lone = True
        self._is_told = False
        self._has_changed = True
        self._scanned_at = 0.0
        self._news: list[Stranger] = []
        self.count = 0
        """Files that lay in the inbox at the last scan."""

    def recover(self) -> None:
        """Make the folders, and undo what a crash left between two steps of a move."""
        for name in OWN_FOLDERS:
            files.make_folder(self.folder / name)
        for name in self._tracks:  # before people do: a folder of their own may be closed to the daemon
            if not files.is_there(self.folder / name):
                files.make_folder(self.folder / name, mode=stat.S_IMODE(self.folder.stat().st_mode))
        files.remove_parts(self.folder / "failed")
        self._return_sidecars()
        for folder in (self.folder / "processing").glob("*/*"):
            files.remove_empty(folder)

    def _return_sidecars(self) -> None:
        """Put a sidecar that was taken before its file could be beside it again: it says how to read the file.

        A sidecar goes in first and out first, so one that lies alone in ``processing/`` has lost its file there.
        """
        taken = {item.path for item in self.processing()}
        beside = {sidecar.path_of(path) for path in taken}
        lone = [
            path for path in (self.folder / "processing").glob(f"*/*/*{sidecar.SUFFIX}") if path not in beside
        ]
        files_there = [*(item.path for item in self._files()), *taken] if lone else []
        for path in lone:
            homes = (sidecar.path_of(file) for file in files_there)
            home = next((home for home in homes if home.name == path.name and not files.is_there(home)), None)
            if home:
                files.rename(path, home)
            else:  # somebody took its file away
                files.move(path, self.folder / "done" / path.name)
            files.remove_empty(path.parent)
        self._has_lone = False

    # -- looking

    def rely_on_events(self) -> None:
        """From now on look when something was told of or is due, and not every time."""
        self._is_told = True

    def look(self) -> None:
        """Note that something changed."""
        self._has_changed = True

    def waiting(self) -> list[Waiting]:
        """Return the regular files that lie in the inbox and in its tracks' folders, the oldest ``max_waiting``."""
        return self._oldest(self._files())

    def _oldest(self, found: Iterable[Waiting]) -> list[Waiting]:
        most = self._settings.max_waiting  # of a million only so many are held in memory
        return heapq.nsmallest(most, found, key=lambda item: (item.changed_at, item.path.name))

    def _files(self) -> Iterator[Waiting]:
        return (file for file, mode in self._entries() if _is_dataset(file, mode))

    def _counted(self, others: list[tuple[Waiting, int, SampleError]]) -> Iterator[Waiting]:
        """Count the files while they pass, and put aside what is none and why."""
        count = 0
        for file, mode in self._entries():
            if _is_dataset(file, mode):
                count += 1
                yield file
            elif error := self._why_lone(file) if stat.S_ISREG(mode) else self._why_strange(file, mode):
                others.append((file, mode, error))
        self.count = count

    def _entries(self) -> Iterator[tuple[Waiting, int]]:
        for folder, track in self._places():
            for path in folder.iterdir():
                if passed_by(path.name):
                    continue
                with contextlib.suppress(OSError):  # gone meanwhile
                    status = path.lstat()  # a link could leave the inbox; devices and pipes could block
                    yield Waiting(path, track, status.st_size, status.st_mtime), status.st_mode

    def _places(self) -> list[tuple[Path, str]]:
        places = [(self.folder / track, track) for track in self._tracks]
        return [(self.folder, self._tracks[0])] * self.folder.is_dir() + [
            (folder, track) for folder, track in places if self._is_own(folder) and _is_usable(folder)
        ]

    def _is_own(self, folder: Path) -> bool:
        """Tell whether a track's folder is one, and on the inbox's file system: a link could lead anywhere."""
        try:
            status = folder.lstat()
            return stat.S_ISDIR(status.st_mode) and status.st_dev == self.folder.stat().st_dev
        except OSError:
            return False

    def hint_complete(self, path: Path) -> None:
        """Note that a file was renamed into place; what is written into it afterwards makes the note void."""
        if path.parent in {self.folder, *(self.folder / track for track in self._tracks)}:
            with contextlib.suppress(OSError):  # gone meanwhile
                self._complete[path] = _signature(path)

    def settled(self, now: float) -> list[Waiting]:
        """Return the files that are complete at ``now`` (monotonic seconds), each with the track that learns it."""
        if self._has_lone:
            self._return_sidecars()
        if not self._is_due(now):
            return []
        self._has_changed, self._scanned_at = False, now
        hints = list(self._complete)  # what the watcher's thread tells from here on is for the next look
        others: list[tuple[Waiting, int, SampleError]] = []
        waiting = self._oldest(self._counted(others))
        ready = [item for item in waiting if self._is_ready(item, now)]
        writers = open_for_writing([item.path for item in ready])
        self.held = {
            path: why for path, why in self.held.items() if self._is_processing(path) and path.exists()
        }
        self.held |= {path: f"process {pid} has it open for writing" for path, pid in writers.items()}
        strangers = list(self._find_strangers(others, now))
        self._news += [stranger for stranger in strangers if stranger.file.path not in self.left]
        self.left = {stranger.file.path: stranger.error for stranger in strangers if stranger.is_left}
        self._resting = {path: rest for path, rest in self._resting.items() if self._is_open(path)}
        for path in hints:
            if not files.is_there(path):
                self._complete.pop(path, None)
        return [replace(item, track=self._named_track(item)) for item in ready if item.path not in writers]

    def _is_due(self, now: float) -> bool:
        is_rescan = now - self._scanned_at >= self._settings.rescan_seconds
        return bool(not self._is_told or self._has_changed or self._resting or is_rescan)

    def _is_ready(self, item: Waiting, now: float) -> bool:
        beside = sidecar.path_of(item.path)
        has_rested = not files.is_there(beside) or self._rests(beside, now)
        return self._rests(item.path, now) and has_rested

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

    def _is_open(self, path: Path) -> bool:
        """Tell whether something still has to be waited for."""
        return files.is_there(path) and path not in self.left

    def _is_processing(self, path: Path) -> bool:
        return path.is_relative_to(self.folder / "processing")

    # -- what is not taken

    def strangers(self) -> list[Stranger]:
        """Return what was found to be no dataset file; each is told of once while it lies there."""
        news, self._news = self._news, []
        return news

    def _find_strangers(
        self, others: Iterable[tuple[Waiting, int, SampleError]], now: float
    ) -> Iterator[Stranger]:
        for file, mode, error in others:
            is_sidecar = stat.S_ISREG(mode)
            seconds = LONE_SECONDS if is_sidecar else None
            if file.path in self.left or self._rests(file.path, now, seconds):
                yield Stranger(
                    file, error, is_left=is_sidecar or stat.S_ISDIR(mode) or self._is_track(file.path)
                )

    def _is_track(self, path: Path) -> bool:
        return path.parent == self.folder and path.name in (*self._tracks, *OWN_FOLDERS)

    def _why_lone(self, file: Waiting) -> SampleError | None:
        data = file.path.with_name(file.path.name.removesuffix(sidecar.SUFFIX))
        if files.is_there(data):
            return None
        return SampleError(
            f"{file.name} waits for {readable(data.name)}; if that was taken before, drop both again, this one first",
            code="lone_sidecar",
        )

    def _why_strange(self, file: Waiting, mode: int) -> SampleError | None:
        if self._is_track(file.path):
            return None if file.path.name in OWN_FOLDERS else self._why_closed(file)
        if stat.S_ISDIR(mode):
            tracks = ", ".join(self._tracks)
            told = f"is a folder and names no track (there is: {tracks}); put its files into the inbox itself"
            return SampleError(f"{file.name} {told}", code="no_such_track")
        kind = next((name for is_kind, name in _KINDS if is_kind(mode)), "no file")
        return SampleError(
            f"{file.name} is {kind} and was not opened; drop a copy of the file", code="no_file"
        )

    def _why_closed(self, file: Waiting) -> SampleError | None:
        if not self._is_own(file.path):
            told = "is a link or another file system; make it a folder of the inbox itself, or link the whole inbox"
            return SampleError(f"the track's folder {file.name} {told}", code="foreign_folder")
        if not _is_usable(file.path):
            told = "is closed to the daemon, so nothing in it is taken; its owner opens it with: chmod g+rwx"
            return SampleError(f"the track's folder {file.name} {told} {file.path}", code="closed_folder")
        return None

    # -- where each one ends

    def take(self, item: Waiting, drop: int) -> Path:
        """Move a complete file into ``processing/<track>/<drop>/``, its sidecar first, out of its writer's reach."""
        target = self.folder / "processing" / item.track / str(drop) / item.name
        if item.path == target:
            return target  # an earlier try moved it and then could not be told to the ledger
        beside = sidecar.path_of(item.path)
        if not files.is_there(beside):
            files.rename(item.path, target)
            return target
        had_lone, self._has_lone = self._has_lone, True  # until its file is there as well, whatever happens
        files.rename(beside, sidecar.path_of(target))
        files.rename(item.path, target)
        self._has_lone = had_lone
        return target

    def _named_track(self, item: Waiting) -> str:
        """Return the track that a sidecar names; a sidecar that cannot be read is refused when the file is."""
        with contextlib.suppress(SampleError, OSError):
            named = sidecar.beside(item.path).track
            return named if named in self._tracks else item.track
        return item.track

    def processing(self) -> list[Waiting]:
        """Return the files that were taken and have no end yet, in order of taking; after a crash these come first."""
        found = []
        for track in self._tracks:
            for path in _listed(_listed([self.folder / "processing" / track])):
                try:
                    number, status = path.parent.name, path.lstat()
                except FileNotFoundError:  # whoever asks for the status is not the one who moves files
                    continue
                if stat.S_ISREG(status.st_mode) and not path.name.endswith(sidecar.SUFFIX):
                    drop = int(number) if number.isdecimal() else 0
                    found.append(Waiting(path, track, status.st_size, status.st_mtime, drop))
        return sorted(found, key=lambda item: (item.drop, item.path.name))

    def finish(self, path: Path, now: float) -> Path:
        """Move an accepted file to ``done/<date>/``, the date of this place."""
        day = _local_date(now).isoformat()
        return self._end(path, files.free_name(self.folder / "done" / day / path.name))

    def prune_done(self, now: float) -> list[str]:
        """Remove the days of ``done/`` that ``keep_done_days`` lets go, and nothing that a person put there; return them."""
        days = self._settings.keep_done_days
        if days is None:
            return []
        oldest = _local_date(now) - timedelta(days)
        gone = []
        for folder in sorted((self.folder / "done").glob("*")):
            with contextlib.suppress(ValueError):  # no day's name
                if date.fromisoformat(folder.name) < oldest and not folder.is_symlink():
                    files.remove(folder)
                    if not folder.exists():
                        gone.append(folder.name)
        return gone

    def fail(self, path: Path, reason: dict[str, Any]) -> Path:
        """Move a file to ``failed/``; its reason is there before it."""
        target = files.free_name(self.folder / "failed" / readable(path.name))
        beside = target.with_name(sidecar.companion(target.name, REASON))
        files.write_json(beside, {"file": target.name, **reason})
        return self._end(path, target)

    def _end(self, path: Path, target: Path) -> Path:
        """Move a sidecar and then its file, which the next start finds if the power fails between the two."""
        beside = sidecar.path_of(path)
        if files.is_there(beside):
            files.rename(beside, sidecar.path_of(target))
        files.rename(path, target)
        if self._is_processing(path):
            files.remove_empty(path.parent)
        return target


def passed_by(name: str) -> str | None:
    """Return the pattern by which a file of this name is left where it lies, ``None`` when it is taken."""
    if not _IGNORED.match(name):  # a folder may hold a million
        return None
    found = next(pattern for pattern in IGNORED if fnmatch.fnmatchcase(name.lower(), pattern.lower()))
    return None if found in _PAPERS and _ROWS.search(name) else found


def _is_usable(folder: Path) -> bool:
    """Tell whether files can be found in a folder and moved out of it."""
    return os.access(folder, os.R_OK | os.W_OK | os.X_OK)


def _local_date(now: float) -> date:
    return datetime.fromtimestamp(now).astimezone().date()


@contextlib.contextmanager
def unchanged(path: Path) -> Iterator[None]:
    """Raise ``RetryLater`` when a file changed while it was read, or somebody can still write to it.

    One that its owner closed, or its sidecar, becomes a ``SampleError``: waiting would not open it.
    """
    before = _signature(path)
    try:
        yield
    except SampleError:
        _require_rest(path, before)  # half a file is no fault of its rows
        raise
    except PermissionError:
        for part in (path, sidecar.path_of(path)):
            _require_readable(part)
        raise
    _require_rest(path, before)


def _signature(path: Path) -> Signature:
    status = path.lstat()
    return status.st_size, status.st_mtime_ns, status.st_ino


def _require_rest(path: Path, before: tuple[int, int, int]) -> None:
    if _signature(path) != before:
        raise RetryLater(f"{path.name} changed while it was read; it is read again", code="changed")
    if pid := open_for_writing([path]).get(path):
        raise RetryLater(
            f"{path.name} is open for writing by process {pid}; it is read again", code="changed"
        )


def _require_readable(path: Path) -> None:
    if files.is_there(path) and not os.access(path, os.R_OK):
        raise SampleError(
            f"{readable(path.name)} cannot be read by the daemon; let its group read it (chmod g+r) and drop it again",
            code="unreadable",
        ) from None


class _Handler(FileSystemEventHandler):
    """Pass on the one event that says complete; the others only say look."""

    def __init__(self, complete: Callable[[Path], None], look: Callable[[], None]) -> None:
        self._complete = complete
        self._look = look

    def on_any_event(self, event: FileSystemEvent) -> None:
        if event.is_directory or event.event_type in {"opened", "closed_no_write", "deleted"}:
            return  # watchdog also reports our own reading
        if event.event_type == "moved":
            if not event.dest_path:
                return  # out of the inbox
            self._complete(Path(os.fsdecode(event.dest_path)))
        self._look()


def watch(folder: Path, complete: Callable[[Path], None], look: Callable[[], None]) -> Any:
    """Return a watcher of the inbox, not started; its thread belongs to whoever starts it."""
    # inotify alone tells a rename from outside the inbox from a file that somebody begins to write
    options: Any = {"generate_full_events": True} if sys.platform == "linux" else {}
    observer = Observer(**options)
    observer.schedule(_Handler(complete, look), str(folder), recursive=True)
    return observer


def start(watcher: Any, folder: Path, mounts: Iterable[Mount]) -> str:
    """Start a watcher; return why the folder must be polled instead, ``""`` when events can be relied on.

    A watcher of a silent folder is started as well: what this machine does there, it tells at once.
    """
    try:
        watcher.start()
    except (OSError, RuntimeError) as error:  # inotify's limits on watches and on instances, above all
        return f"it cannot be watched: {getattr(error, 'strerror', None) or error}; see lorad doctor"
    silent = why_silent(Path(os.path.realpath(folder)), mounts)
    return silent and f"it lies on {silent}, which does not tell of what other machines change"


def _listed(folders: Iterable[Path]) -> list[Path]:
    """Return what lies in these folders; one that is no folder, or gone meanwhile, holds nothing."""
    found: list[Path] = []
    for folder in folders:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            found += folder.iterdir()
    return found
