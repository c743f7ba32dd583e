"""What was forgotten is in no session, candidate, checkpoint or log afterwards, and people hear what still holds it."""

import pytest
import tiny
from world import World

from lorad import records
from lorad.apps.daemon import forgetting
from lorad.models import lower_states
from lorad.states import JobState
from lorad.storage import files, locks
from lorad.training import run_folder

DOORS, GATES = tiny.facts(4, "doors", "door"), tiny.facts(4, "gates", "gate")
WORD = DOORS[0].input[0]["content"]


@pytest.fixture
def world(tmp_path):
    (tmp_path / "inbox").mkdir()
    made = World(tmp_path)
    yield made
    made.database.close()


def begin(world, name="doors.json", examples=DOORS):
    """Drop a file and let its session begin; return its folder, with what a session leaves."""
    world.drop(name, examples)
    world.pass_time()
    folder = world.models.sessions[-1].folder
    for left in ("checkpoints/round-0001/manifest.json", "candidate/probes.json"):
        files.write_json(folder / left, WORD)
    for left in ("progress.jsonl", "session.log"):
        (folder / left).write_text(WORD)
    return folder


def refuse(world):
    """Let a job be refused by the judge."""
    folder = begin(world)
    world.models.sessions[-1].end(recall=0.5)
    world.pass_time()
    assert world.job().state is JobState.REJECTED
    return folder


def rows(world):
    folder = world.models.sessions[-1].folder
    return [
        records.restore(records.Example, {k: v for k, v in row.items() if k != "right"}).id
        for name in ("new.jsonl", "old.jsonl")
        for row in files.read_lines(folder / name)
    ]


def holding(world, word=WORD):
    """Return the files of the track's folder that hold a word."""
    folder = world.registry.folder
    found = [p for p in folder.rglob("*") if p.is_file() and word.encode() in p.read_bytes()]
    return sorted(str(path.relative_to(folder)) for path in found)


def test_a16_by_force_no_candidate_is_promoted_that_learned_what_was_forgotten(world):
    refuse(world)

    world.loop.commands.forget(world.track, WORD, world.now)
    assert holding(world) == []
    world.loop.commands.retry(1, world.now, force=True)
    world.pass_time()

    # it is trained anew, without the words, and then promoted as it was asked for
    assert world.job().state is JobState.TRAINING
    assert DOORS[0].id not in rows(world)
    world.models.sessions[-1].end(recall=0.5)
    world.pass_time()
    assert world.registry.latest == "v0.1"
    assert DOORS[0].id not in world.registry.evaluation("v0.1")["right"]


def test_what_the_base_said_of_rows_goes_with_them(world):
    refuse(world)
    for name in (lower_states.FILE, ".killed.part"):
        files.write_json(world.registry.folder / lower_states.FOLDER / name, WORD)

    world.loop.commands.forget(world.track, "nothing of this kind", world.now)
    assert holding(world) != []
    world.loop.commands.forget(world.track, WORD, world.now)
    assert holding(world) == []


def test_a16_a_refused_candidate_keeps_its_numbers(world):
    refuse(world)

    world.loop.commands.forget(world.track, "doors", world.now)

    assert world.archive().explain("chat", "job-1").failed
    kept = world.registry.rejected / "job-1"
    assert [path.name for path in kept.rglob("*") if path.is_file()] == ["evaluation.json"]


def test_a16_what_comes_again_does_not_bring_an_emptied_candidate_back(world):
    refuse(world)
    world.loop.commands.forget(world.track, WORD, world.now)
    world.learn("again.json", DOORS[:1])

    world.loop.commands.retry(1, world.now, force=True)
    world.pass_time()

    assert world.ledger.job(1).state is JobState.TRAINING


@pytest.mark.parametrize("job", ["learned", "rehearsed", "a refit"])
def test_a16_a_session_whose_rows_are_forgotten_begins_anew_without_them(world, job):
    if job == "learned":
        folder = begin(world)
    else:
        world.learn("doors.json", DOORS)
        if job == "a refit":
            world.loop.commands.consolidate(world.track, world.now, refit=True)
            world.pass_time()
            folder = world.models.sessions[-1].folder
        else:
            folder = begin(world, "gates.json", GATES)
    first = world.models.sessions[-1]

    assert world.loop.commands.forget(world.track, WORD, world.now) == 1

    assert first.stopped
    assert not folder.exists()
    assert (world.job().state, world.job().attempts) == (JobState.QUEUED, 0)
    world.pass_time()
    assert world.job().state is JobState.TRAINING
    assert DOORS[0].id not in rows(world)
    assert DOORS[1].id in rows(world)


def test_a16_a_session_that_has_nothing_of_it_goes_on(world):
    begin(world, "gates.json", GATES)
    world.drop("doors.json", DOORS)
    world.pass_time()

    world.loop.commands.forget(world.track, "doors", world.now)

    assert not world.models.sessions[0].stopped
    assert world.ledger.job(1).state is JobState.TRAINING


def test_a16_a_session_of_nothing_but_forgotten_rows_ends_with_a_reason(world):
    begin(world)

    world.loop.commands.forget(world.track, "doors", world.now)
    world.pass_time()

    assert (world.job().state, world.job().reason["code"]) == (JobState.FAILED, "nothing_new")


@pytest.mark.parametrize("end", ["failed", "cancelled", "cancelled and queued again", "halted"])
def test_a16_no_way_that_a_session_can_end_leaves_what_was_forgotten(world, end):
    folder = begin(world)
    if end == "failed":
        world.models.sessions[-1].status = -9
        world.pass_time()
    elif end == "halted":
        world.ledger.set_flag("paused", "yes")
        world.loop.sessions.halt(world.now)
    else:
        world.loop.commands.cancel(1, world.now)
        if "again" in end:
            world.loop.commands.retry(1, world.now)

    world.loop.commands.forget(world.track, WORD, world.now)
    if end == "cancelled and queued again":
        world.models.sessions[-1].status = 75
    world.pass_time()

    assert holding(world) == []
    assert not (folder / "checkpoints").exists()


def test_a16_a_candidate_that_waits_for_its_verdict_is_not_promoted(world):
    # Given a session that has ended, and a daemon that has not looked yet
    begin(world)
    world.models.sessions[-1].end()

    world.loop.commands.forget(world.track, WORD, world.now)
    world.pass_time()

    assert world.registry.latest is None
    assert (world.job().state, DOORS[0].id in rows(world)) == (JobState.TRAINING, False)


def test_a16_a_daemon_that_ends_while_it_forgets_does_the_rest_at_its_next_start(world):
    # Given words that memory has forgotten, and nothing else
    refuse(world)
    world.track.memory.forget(WORD, world.now)
    world.database.close()

    world.start()
    world.pass_time()

    assert holding(world) == []
    world.loop.commands.retry(1, world.now, force=True)
    world.pass_time()
    assert DOORS[0].id not in rows(world)


def test_a16_of_a_folder_that_does_not_tell_the_worst_is_thought(world):
    folder = begin(world)
    world.models.sessions[-1].status = -9
    world.pass_time()
    files.remove(folder / run_folder.INPUTS)

    world.loop.commands.forget(world.track, WORD, world.now)

    assert not folder.exists()


# what people are told


def told(world, selector=WORD):
    remains = world.loop.commands.remains(world.track, selector)
    return remains, forgetting.tell(remains, is_done=True)


def test_a16_the_versions_that_hold_it_are_named_with_what_keeps_them(world):
    world.learn("doors.json", DOORS)
    world.learn("gates.json", GATES)
    world.registry.tracker.pin("v0.1", pinned=True)
    world.registry.tracker.tag("v0.1", "gold")

    remains, sentence = told(world)

    assert remains.versions == {"v0.1": ("previous", "pinned", "tag gold"), "v0.2": ("latest",)}
    assert "v0.1 (previous, pinned, tag gold), v0.2 (latest) still hold them" in sentence
    assert "consolidate --refit" in sentence
    assert "unpin and untag" in sentence
    assert "doors.json" in sentence
    assert "failed/" in sentence
    assert told(world, "gates")[0].versions == {"v0.2": ("latest",)}


def test_a16_a_refit_without_it_does_not_hold_it_and_what_grows_from_an_older_version_does(world):
    world.learn("doors.json", DOORS)
    ids = {DOORS[0].id}
    world.loop.commands.forget(world.track, WORD, world.now)
    world.learn("gates.json", GATES)
    world.loop.commands.consolidate(world.track, world.now, refit=True)
    world.pass_time()
    world.models.sessions[-1].end()
    world.pass_time()
    assert world.registry.latest == "v0.3"

    learned_in = world.track.memory.learned_in(ids)
    found = forgetting.versions(world.registry, world.ledger, ids, learned_in)

    assert found == ["v0.1", "v0.2"]


def test_a16_copies_and_sessions_are_named_and_the_dry_run_says_the_same(world):
    world.learn("doors.json", DOORS)
    files.write_json(world.registry.folder / "reproduced" / "v0.1" / "evaluation.json", {})
    files.write_json(world.registry.folder / "merged" / "lorad.json", {"version": "v0.1"})
    begin(world, "gates.json", GATES)

    remains, sentence = told(world)
    before = forgetting.tell(remains, is_done=False)

    assert remains.copies == ("reproduced/v0.1", "merged")
    assert remains.restarted == (2,)
    assert sentence.startswith("job 2 begins anew without them; ")
    assert before.startswith("job 2 would begin anew without them; ")
    assert sentence.partition("; ")[2] == before.partition("; ")[2]
    assert not world.models.sessions[-1].stopped


def test_a16_where_nothing_was_learned_that_is_said(world):
    refuse(world)

    remains, sentence = told(world)

    assert (remains.versions, remains.removed) == ({}, (1,))
    assert "no version has learned them" in sentence
    world.loop.commands.forget(world.track, WORD, world.now)
    assert told(world, "gates")[0].removed == ()


def test_a16_what_a_killed_reproduction_has_left_goes_and_one_that_runs_is_left_alone(world):
    begin(world)
    made = world.registry.folder / "reproduced" / ".made" / "new.jsonl"
    made.parent.mkdir(parents=True)
    made.write_text(WORD)

    with locks.locked(made.parents[1] / ".lock"):  # it runs
        world.loop.commands.forget(world.track, "doors", 1.0)
        world.pass_time()
        assert made.exists()
    world.loop.commands.forget(world.track, "doors", 2.0)
    world.pass_time()

    assert not made.parent.exists()
