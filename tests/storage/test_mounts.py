"""Which folders tell of what happens in them: a mount table in, a reason to poll out."""

from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

from lorad.storage.mounts import why_silent


class Line(NamedTuple):
    mountpoint: str
    fstype: str


ROOT = Line("/", "ext4")


@pytest.mark.parametrize(
    ("fstype", "what"),
    [
        ("ext4", ""),
        ("xfs", ""),
        ("apfs", ""),
        ("tmpfs", ""),
        ("overlay", ""),
        ("nfs4", "NFS"),
        ("nfs", "NFS"),
        ("cifs", "SMB"),
        ("smb3", "SMB"),
        ("smbfs", "SMB"),
        ("fuse.sshfs", "FUSE"),
        ("fuseblk", "FUSE"),
        ("macfuse", "FUSE"),
        ("9p", "a host's shared folder"),
        ("CIFS", "SMB"),
    ],
)
def test_a_file_system_that_others_write_to_is_named(fstype, what):
    table = [ROOT, Line("/home", fstype)]

    assert why_silent(Path("/home/me/inbox"), table) == what
    assert why_silent(Path("/homes/inbox"), table) == ""


@pytest.mark.parametrize(
    ("table", "what"),
    [
        ([ROOT, Line("/net", "nfs4"), Line("/net/local", "ext4")], ""),
        ([Line("/net/local", "cifs"), Line("/net", "ext4"), ROOT], "SMB"),
        (
            [ROOT, Line("/net/local", "autofs"), Line("/net/local", "nfs4")],
            "NFS",
        ),  # the later covers the earlier
        ([ROOT, Line("/net/local", "nfs4"), Line("/net/local", "ext4")], ""),
        ([], ""),
    ],
)
def test_the_deepest_mount_decides_and_the_last_of_one_place(table, what):
    assert why_silent(Path("/net/local/inbox"), table) == what


def test_the_real_table_can_be_asked():
    assert isinstance(why_silent(Path("/proc"), psutil.disk_partitions(all=True)), str)
