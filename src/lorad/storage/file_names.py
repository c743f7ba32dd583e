"""Names of files. What people and records are shown, and names that still fit with something added.

What lives here: rules on names as text. What never does: files.
"""

import hashlib
import os
import re

#: Bytes that file systems allow a name.
LONGEST = 255

#: Characters of a digest that make a shortened or marked name one of its own.
_MARK = 8

#: What of a name says how its file is read.
_ENDING = re.compile(r"(?<=.)\.\w{1,16}(\.gz)?$", re.ASCII | re.IGNORECASE | re.DOTALL)


def readable(name: str) -> str:
    """Return a name that any text may hold: what is not UTF-8 or steers a terminal is told with marks."""
    decoded = os.fsencode(name).decode(errors="replace")
    return "".join(sign if sign.isprintable() else "\ufffd" for sign in decoded)


def distinct(name: str) -> str:
    """Return a readable name of its own, that fits: what had to be marked keeps a digest, or two names of other code pages would be one."""
    told = readable(name)
    return fitting(name) if told == name else _with_digest(told, name, LONGEST)


def fitting(name: str, room: int = LONGEST) -> str:
    """Return a name of at most ``room`` bytes: a longer one loses its middle, and its digest keeps it apart."""
    if len(os.fsencode(name)) <= room:
        return name
    return _with_digest(name, name, room)


def numbered(name: str, number: int, room: int = LONGEST) -> str:
    """Return a name with a number in it, shortened if there is no room for it."""
    stem, ending = _split(fitting(name, room - len(f"-{number}")))
    return f"{stem}-{number}{ending}"


def _with_digest(told: str, name: str, room: int) -> str:
    """Return what is told of a name, cut to leave room for a digest of the name itself."""
    mark = "~" + hashlib.sha256(os.fsencode(name)).hexdigest()[:_MARK]
    stem, ending = _split(told)
    return _cut(stem, room - len(mark) - len(os.fsencode(ending))) + mark + ending


def _split(name: str) -> tuple[str, str]:
    found = _ENDING.search(name)
    return (name[: found.start()], found.group()) if found else (name, "")


def _cut(text: str, room: int) -> str:
    """Return the beginning of a text that fits, whole characters alone."""
    return os.fsencode(text)[: max(0, room)].decode("utf-8", "ignore")
