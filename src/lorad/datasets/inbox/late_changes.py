"""Files that were changed after they were read, and have settled again.

What lives here: comparing what has ended with what was read of it. What never does: reading it anew, the ledger.
"""

from collections.abc import Mapping

from lorad.config import InboxSettings
from lorad.datasets.inbox.inbox_folders import InboxFolders
from lorad.datasets.inbox.settling import Rest, Settling
from lorad.storage.open_files import open_for_writing
from lorad.storage.source import Signature


class LateChanges:
    """The state of ended files by their paths relative to the drops' folder."""

    def __init__(self, settings: InboxSettings, folders: InboxFolders, settling: Settling) -> None:
        self._settings = settings
        self._folders = folders
        self._settling = settling
        self._changed: dict[str, Rest] = {}
        self._looked_at = float("-inf")

    def is_due(self, now: float) -> bool:
        """Tell whether ended files must be checked for changes."""
        return bool(self._changed) or now - self._looked_at >= self._settings.rescan_seconds

    def find(self, ended: Mapping[str, Signature], now: float) -> list[str]:
        """Return the paths of ended files that changed after they were read and have settled again."""
        self._looked_at = now
        changed = {}
        for place, read in ended.items():
            found = self._folders.drops.signature(place)
            # another file of that name is none of ours
            if found and found != read and found[2] == read[2]:
                rest = self._changed.get(place)
                changed[place] = rest if rest and rest.signature == found else Rest(found, now)
        self._changed = changed
        return [place for place, rest in changed.items() if self._has_settled(place, rest, now)]

    def forget(self, place: str) -> None:
        """Forget a file that is read again."""
        self._changed.pop(place, None)

    def _has_settled(self, place: str, rest: Rest, now: float) -> bool:
        path = self._folders.drops.folder.path / place
        has_rested = now - rest.since >= self._settings.settle_seconds
        return (
            has_rested and not self._settling.is_unfinished(path, rest, now) and not open_for_writing([path])
        )
