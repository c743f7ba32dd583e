"""Names of versions and tags.

What lives here: their form and which name comes next. What never does: whether there is such a version (``tracker``).
"""

import re
from collections.abc import Collection

from lorad.errors import ProtocolError, RegistryError

VERSION = re.compile(r"v([0-9]{1,9})\.([0-9]{1,9})\Z")
NEW_VERSION = re.compile(r"v(?:0|[1-9][0-9]{0,8})\.(?:0|[1-9][0-9]{0,8})")
"""What a version may be called from now on: of each pair of numbers one spelling."""
TAG = re.compile(r"(?!(?:latest|previous|base|v\d+\.\d+|job-\d+)$)[a-z0-9][a-z0-9._-]{0,99}")
"""What a tag may be: nothing that already means a version, the base or a rejected candidate."""


def order(name: str) -> tuple[int, ...]:
    """Return what sorts versions from oldest to newest."""
    match = VERSION.match(name)
    return tuple(map(int, match.groups())) if match else (0, 0)


def following(taken: Collection[str]) -> str:
    """Return the next version's name."""
    numbers = [tuple(map(int, match.groups())) for name in taken if (match := VERSION.match(name))]
    major, minor = max(numbers, default=(0, 0))
    return f"v{major}.{minor + 1}"


def check_new(version: str, taken: Collection[str]) -> None:
    """Raise ``RegistryError`` where no new version can have this name."""
    if not NEW_VERSION.fullmatch(version):
        raise RegistryError(f"invalid version name {version!r}; use the form v0.3", code="bad_version")
    if version in taken:
        raise RegistryError(
            f"there is a {version} already; the next free one is {following(taken)}",
            code="version_exists",
            version=version,
        )


def check_tag(tag: str) -> None:
    """Raise ``ProtocolError`` for what cannot be a tag."""
    if not TAG.fullmatch(tag):
        raise ProtocolError(
            f"invalid tag {tag!r}; use lower-case letters, digits, dots, dashes and underscores, but no reserved "
            "name: latest, previous, base, v0.1, job-1",
            code="bad_tag",
            tag=tag,
        )


def no_such_version(name: str) -> RegistryError:
    """Return the error for an unknown version."""
    return RegistryError(
        f"there is no version {name}; list them with: lorad versions", code="no_such_version", version=name
    )
