"""A home of an older lorad: its folders in the inbox, which a group could write to, become the daemon's own."""

import json
import os
import stat

import pytest
import tiny
from world import SETTINGS, World

from lorad.datasets.inbox.inbox import Inbox


@pytest.fixture
def old(tmp_path):
    """Return a home whose inbox has the old folders, open to a group."""
    for name in ("processing/chat/3", "processing/chat/12", "done/2026-01-02", "failed"):
        (tmp_path / "inbox" / name).mkdir(parents=True)
    (tmp_path / "inbox" / "done" / "2026-01-02" / "old.json").write_text("[]")
    (tmp_path / "inbox" / "failed" / "bad.json").write_text("[]")
    (tmp_path / "inbox" / "failed" / "bad.json.reason.json").write_text("{}")
    for path in [tmp_path / "inbox", *(tmp_path / "inbox").rglob("*")]:
        if path.is_dir():
            path.chmod(0o2770)
    return tmp_path


def recover(home):
    inbox = Inbox(home / "inbox", SETTINGS.inbox, ("chat",), home / "models" / "drops")
    return inbox, inbox.recover()


def test_what_had_ended_is_found_where_it_was_and_nobody_else_may_write_there(old):
    _, told = recover(old)

    assert (old / "inbox" / "done" / "2026-01-02" / "old.json").exists()
    assert sorted(path.name for path in (old / "inbox" / "failed").iterdir()) == [
        "bad.json",
        "bad.json.reason.json",
    ]
    assert len(told) == 3
    folders = [path for path in (old / "models" / "drops").rglob("*") if path.is_dir()]
    assert not [path for path in folders if stat.S_IMODE(path.stat().st_mode) & 0o022]
    assert recover(old)[1] == []


def test_what_was_being_processed_is_brought_to_its_end_in_order(old):
    for number, subject in ((3, "door"), (12, "gate")):
        path = old / "inbox" / "processing" / "chat" / str(number) / f"{subject}.json"
        path.write_text(json.dumps(tiny.rows(tiny.facts(2, subject=subject))))
    (old / "inbox" / "processing" / "chat" / "3" / "door.json.meta.yaml").write_text("description: x")
    world = World(old)

    world.pass_time()

    assert [drop.name for drop in reversed(world.ledger.drops())] == ["door.json", "gate.json"]
    assert world.ledger.drops()[1].reason["description"] == "x"
    assert not (old / "inbox" / "processing").exists()
    world.database.close()


def test_a1_what_somebody_put_there_is_put_aside_and_never_followed(old):
    # Given links to the home's own database, a pipe, and a folder named by a number that no ledger has
    models = old / "models"
    models.mkdir()
    (models / "secret.json").write_text(json.dumps(tiny.rows(tiny.facts(2, "secret"))))
    processing = old / "inbox" / "processing" / "chat"
    (processing / "999").symlink_to(models)
    (processing / "12" / "a.json").symlink_to(models / "secret.json")
    (processing / ("9" * 23)).mkdir()
    (old / "inbox" / "done" / "2020-01-01").symlink_to(models)
    os.mkfifo(old / "inbox" / "failed" / "pipe")
    world = World(old)

    for _ in range(3):
        world.pass_time()

    assert (models / "secret.json").exists()
    assert (models / "lorad.sqlite3").exists()
    assert world.ledger.drops() == []
    aside = models / "drops" / "aside"
    assert sorted(path.name for path in aside.iterdir()) == ["2020-01-01", "old-processing", "pipe"]
    assert any("was not opened" in str(event) for event in world.ledger.events())
    world.database.close()


@pytest.mark.parametrize("name", ["processing", "done", "failed"])
@pytest.mark.parametrize("kind", ["link", "file"])
def test_what_is_no_folder_stays_and_is_told_of(old, tmp_path_factory, name, kind):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (old / "inbox" / name).rename(old / "moved")
    if kind == "link":
        (old / "inbox" / name).symlink_to(elsewhere)
        os.chown(old / "inbox" / name, -1, -1, follow_symlinks=False)
    else:
        (old / "inbox" / name).write_text("[]")
    world = World(old)

    world.pass_time()
    world.pass_time()

    assert list(elsewhere.iterdir()) == []
    if kind == "file" or name == "processing":
        told = [event for event in world.ledger.events() if event["name"] == "not_taken"]
        assert [(event["file"], event["code"]) for event in told] == [(name, "reserved_name")]
    world.database.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_somebody_else_is_not_moved(old):
    os.chown(old / "inbox" / "done", 65_534, 65_534)

    inbox, told = recover(old)

    assert len(told) == 2
    assert (old / "inbox" / "done").is_dir()
    assert list((old / "models" / "drops" / "done").iterdir()) == []
    inbox.settled(0.0)
    inbox.settled(9.0)
    assert [error.code for error in inbox.not_taken.values()] == ["reserved_name"]


def test_cut_off_between_any_two_steps_it_goes_on(old):
    inbox, _ = recover(old)
    drops = old / "models" / "drops"
    (drops / "done").rename(drops / "old-done")  # here the power failed

    recover(old)

    assert (old / "inbox" / "done" / "2026-01-02" / "old.json").exists()
    assert not (drops / "old-done").exists()
    del inbox
