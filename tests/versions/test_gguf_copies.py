"""GGUF copies: whole or made again, and gone with their version."""

import errno

import pytest
from versions_on_disk import flip, promote, prune

from lorad.errors import TransientError
from lorad.versions import gguf_copies


@pytest.fixture
def copy(tmp_path):
    return gguf_copies.of_version(tmp_path / "chat" / "versions" / "v0.1", "abc", "f16")


def write(path):
    path.write_bytes(b"a GGUF")


def names(path):
    return sorted(found.name for found in path.parent.iterdir())


def test_a_copy_lies_in_its_tracks_folder_and_names_what_it_holds(tmp_path):
    assert gguf_copies.of_version(tmp_path / "versions" / "v0.1", "abc", "f16") == (
        tmp_path / "gguf" / "v0.1-abc-f16.gguf"
    )
    assert gguf_copies.of_base(tmp_path / "base" / "a-b", "abc", "f16") == (
        tmp_path / "base" / ".gguf" / "a-b-abc-f16.gguf"
    )


def test_a_copy_is_made_once(copy):
    assert gguf_copies.ensure(copy, write)
    assert not gguf_copies.ensure(copy, pytest.fail)

    assert copy.read_bytes() == b"a GGUF"
    assert copy.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize(
    "spoil",
    [
        flip,
        lambda path: path.unlink(),
        lambda path: path.with_name(path.name + gguf_copies.LABEL).unlink(),
        lambda path: path.with_name(path.name + gguf_copies.LABEL).write_bytes(b"\xff"),
    ],
)
def test_a_damaged_copy_is_made_again(copy, spoil):
    gguf_copies.ensure(copy, write)
    spoil(copy)

    assert gguf_copies.ensure(copy, write)

    assert copy.read_bytes() == b"a GGUF"
    assert len(names(copy)) == 2


def test_a_copy_replaces_those_of_its_version_alone(copy):
    others = [
        copy.with_name(name) for name in ("v0.1-abc-f32.gguf", "v0.1-old-f16.gguf", "v0.10-abc-f16.gguf")
    ]
    for other in others:
        other.parent.mkdir(parents=True, exist_ok=True)
        write(other)

    gguf_copies.ensure(copy, write)

    assert [other.exists() for other in others] == [False, False, True]


@pytest.mark.parametrize(
    ("error", "told"), [(OSError(errno.ENOSPC, "full"), TransientError), (KeyError("x"), KeyError)]
)
def test_a_copy_that_cannot_be_made_leaves_nothing(copy, error, told):
    def fail(path):
        path.write_bytes(b"half a G")
        raise error

    with pytest.raises(told):
        gguf_copies.ensure(copy, fail)

    assert names(copy) == []


def test_what_a_writer_that_was_killed_left_is_removed(copy):
    copy.parent.mkdir(parents=True)
    copy.with_name(f".{copy.name}.part").write_bytes(b"half a G")

    gguf_copies.ensure(copy, write)

    assert names(copy) == [copy.name, copy.name + gguf_copies.LABEL]


def test_a_copy_goes_with_its_version(registry):
    promote(registry, 3)
    copies = [
        gguf_copies.of_version(registry.path(version), "abc", "f16") for version in ("v0.1", "v0.2", "v0.3")
    ]
    for copy in copies:
        gguf_copies.ensure(copy, write)

    assert prune(registry, 2) == ["v0.1"]

    assert [copy.exists() for copy in copies] == [False, True, True]
    assert len(names(copies[1])) == 4
