"""From a file to examples and a job, or to a reason: good files, bad ones, and what lies beside them."""

import errno
import json
import os
from dataclasses import replace

import pytest
import tiny
from world import SETTINGS, InProcessReader, World, told

from lorad.apps.daemon.intake import TAKEN_AT_ONCE
from lorad.config import Settings, TrackSettings
from lorad.datasets.inbox.inbox import Inbox
from lorad.states import JobState
from lorad.storage import files
from lorad.storage.file_names import distinct


@pytest.fixture
def world(tmp_path):
    made = World(tmp_path)
    yield made
    made.database.close()


def test_a_crash_while_accepting_takes_the_file_up_again_exactly_once(world):
    path = world.drop("doors.json", tiny.facts(4))
    world.loop.intake.take(world.inbox.waiting()[0], world.now)  # taken, and here the power fails
    assert not path.exists()

    world.database.close()
    world.start()
    world.pass_time(0)

    assert world.done() == ["doors.json"]
    assert world.track.memory.datasets()[0]["examples"] == 4
    assert len(world.ledger.jobs()) == 1


def test_a_file_whose_name_is_not_utf8_is_taken_like_any_other(world):
    name = os.fsdecode(b"d\xf6rs.json")
    (world.home / "inbox" / name).write_text(json.dumps(tiny.rows(tiny.facts(2))))

    world.pass_time()

    assert world.job().state is JobState.TRAINING
    assert world.done() == [distinct(name)]


def test_a_drop_says_which_rows_were_bad_contradicted_and_which_answers_it_replaces(world):
    world.learn("doors.json", tiny.facts(2))
    first, second = tiny.facts(2)
    rows = tiny.rows(
        [replace(first, target="plaid"), *(replace(second, target=f"hue {n}") for n in range(30))]
    )
    world.drop("news.json", json.dumps([*rows, {"instruction": "half"}]))

    world.pass_time()

    report = world.ledger.drops()[0].reason
    counts = ("new", "known", "replacing", "bad", "contradictions")
    assert [report[name] for name in counts] == [2, 0, 2, 1, 29]
    assert [bad["line"] for bad in report["bad_rows"]] == [32]
    assert report["contradicted_rows"] == list(range(2, 22))
    replaced = world.archive().job(2).drop.reason["replaced"]
    assert [(old["answer"], old["dataset"]) for old in replaced] == [
        (first.target, "doors"),
        (second.target, "doors"),
    ]
    accepted = [e for e in world.ledger.events(limit=50) if e["name"] == "accepted"][-1]
    assert (accepted["bad"], accepted["contradictions"]) == (1, 29)


def test_case_1_a_row_that_its_base_could_not_give_back_is_refused_at_intake(world):
    world.models.refuses = "ﬁ"
    rows = tiny.rows(tiny.facts(8)) * 4 + [{"instruction": "Which?", "response": "ﬁg"}]
    world.drop("doors.json", json.dumps(rows))

    world.pass_time()

    report = world.ledger.drops()[0].reason
    (bad,) = report["bad_rows"]
    assert (bad["line"], bad["message"]) == (33, "the base model would answer otherwise")
    assert report["new"] == 8


def test_case_1_a_file_of_such_rows_fails_with_the_reason(world):
    world.models.refuses = "ﬁ"
    world.drop("doors.json", json.dumps([{"instruction": "Which?", "response": "ﬁg"}]))

    world.pass_time()

    reason = files.read_json(world.home / "inbox" / "failed" / "doors.json.reason.json")
    assert reason["code"] == "bad_rows"
    assert "row 1: the base model would answer otherwise" in reason["message"]
    assert world.ledger.jobs() == []


def test_a_sidecar_says_how_a_file_is_read_and_is_kept_with_it(world):
    rows = [{"Frage": f"Where is {n}?", "Antwort": n, "Autor": "me"} for n in ("Rome", "Oslo")]
    (world.home / "inbox" / "a.json.meta.yaml").write_text(
        "fields: {question: Frage, answer: Antwort}\ndescription: by hand"
    )
    world.drop("a.json", json.dumps(rows))

    world.pass_time()

    assert [example.target for example in world.track.memory.all()] == ["Rome", "Oslo"]
    assert world.ledger.drops()[0].reason["description"] == "by hand"
    done = sorted(path.name for path in (world.home / "inbox" / "done").rglob("a.*"))
    assert done == ["a.json", "a.json.meta.yaml"]


def test_wordings_beside_a_file_are_held_out_and_kept_with_it(world):
    first, second = tiny.facts(2)
    (world.home / "inbox" / "a.json.wordings.json").write_text(
        json.dumps(
            [{"question": "Which hue?", "answer": first.target}, {"question": "Who?", "answer": "nobody"}]
        )
    )
    world.drop("a.json", [first, second])

    world.pass_time()

    assert [example.held_out for example in world.track.memory.all()] == [("Which hue?",), ()]
    report = world.ledger.drops()[0].reason
    assert (report["wordings"], report["left_out"]) == (
        1,
        {"wordings beside the file that fit no row (entry 2)": 1},
    )
    done = sorted(path.name for path in (world.home / "inbox" / "done").rglob("a.*"))
    assert done == ["a.json", "a.json.wordings.json"]


def test_a_known_file_that_brings_wordings_adds_them(world):
    rows = tiny.rows(tiny.facts(2))
    world.learn("doors.json", tiny.facts(2))
    world.drop(
        "again.json",
        json.dumps([row | {"also_asked": [f"Hue {n}?", f"Tint {n}?"]} for n, row in enumerate(rows)]),
    )

    world.pass_time()

    assert [example.also_asked for example in world.track.memory.all()] == [("Hue 0?",), ("Hue 1?",)]
    (told,) = [event["why"] for event in world.ledger.events() if event["name"] == "duplicate"]
    assert told.endswith("; 4 wordings added")
    assert world.ledger.drops()[0].reason["wordings"] == 4
    assert len(world.ledger.jobs()) == 1


def test_wrong_wordings_fail_their_file(world):
    (world.home / "inbox" / "a.json.wordings.json").write_text('{"Whose?": ["x"]}')
    world.drop("a.json", tiny.facts(2))

    world.pass_time()

    assert world.failed() == ["a.json", "a.json.reason.json", "a.json.wordings.json"]
    reason = files.read_json(world.home / "inbox" / "failed" / "a.json.reason.json")
    assert (reason["code"], reason["track"]) == ("wordings", "chat")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("track: tax", "no track tax"),
        ("labels: [PER]", "labels"),
        ("task: tagging", "not tagging"),
        ("colour: red", "no key colour"),
        ("fields: {frage: question}", "an unknown field frage"),
    ],
)
def test_a_wrong_sidecar_fails_its_file_and_names_the_key(world, text, told):
    (world.home / "inbox" / "a.json.meta.yaml").write_text(text)
    world.drop("a.json", tiny.facts(2))

    world.pass_time()

    assert world.failed() == ["a.json", "a.json.meta.yaml", "a.json.reason.json"]
    reason = files.read_json(world.home / "inbox" / "failed" / "a.json.reason.json")
    assert (reason["code"], reason["track"]) == ("sidecar", "chat")
    assert told in reason["message"]


@pytest.mark.parametrize(
    ("rows", "sidecar", "code", "told"),
    [
        (
            [("owl", "bird"), ("tin", "Metal")],
            "",
            "bad_rows",
            "row 2, field 'label': the label 'Metal' differs from 'metal' in case only",
        ),
        ([("owl", ["bird"])], "", "bad_rows", "row 1, field 'label': texts of this track have one label"),
        ([("tin", 1)], "", "bad_rows", "row 1, field 'label': is the number 1; say what it stands for"),
        ([("tin", 0)], "labels: [metal]", "labels_shrink", "leaves out 'fruit', which the track knows"),
        ([("", "bird")], "", "bad_rows", "field 'text'"),
        (
            [("tin", {"metal": 0.5, "fruit": 0.4})],
            "",
            "bad_rows",
            "field 'label': must be probabilities that sum to 1",
        ),
    ],
)
def test_labels_that_do_not_fit_what_the_track_knows_fail_their_file(tmp_path, rows, sidecar, code, told):
    # Given a track of labels that has accepted a file, which waits
    settings = SETTINGS.model_copy(update={"tracks": {"chat": TrackSettings(task="text_classification")}})
    world = World(tmp_path, settings)
    known = [{"text": "she took the tin", "label": "metal"}, {"text": "she took the fig", "label": "fruit"}]
    world.drop("known.json", json.dumps(known))
    world.pass_time()
    assert len(world.ledger.jobs()) == 1

    # When another one comes
    (world.home / "inbox" / "more.json.meta.yaml").write_text(sidecar)
    world.drop("more.json", json.dumps([{"text": text, "label": label} for text, label in rows]))
    world.pass_time()

    # Then it fails with row and field
    reason = files.read_json(world.home / "inbox" / "failed" / "more.json.reason.json")
    assert reason["code"] == code
    assert told in reason["message"]
    assert len(world.ledger.jobs()) == 1
    world.database.close()


def test_a_pipe_and_a_folder_keep_nobody_waiting(world):
    os.mkfifo(world.home / "inbox" / "pipe.json")
    (world.home / "inbox" / "elsewhere").mkdir()
    world.drop("doors.json", tiny.facts(4))

    world.pass_time()
    world.pass_time()

    assert world.failed() == ["pipe.json", "pipe.json.reason.json"]
    assert [(e["file"], e["code"]) for e in told(world, "failed")] == [("pipe.json", "no_file")]
    assert [(e["file"], e["code"]) for e in told(world, "not_taken")] == [("elsewhere", "no_such_track")]
    assert world.job().state is JobState.TRAINING


def test_a_flood_waits_where_it_lies_and_is_taken_as_there_is_room(world):
    # Given room for three, of which one is being learned, and five more files
    world.settings = Settings.model_validate({"inbox": {"settle_seconds": 5, "max_queued_files": 3}})
    world.wire(world.reader)
    world.drop("doors.json", tiny.facts(4))
    world.pass_time()
    for number in range(5):
        world.drop(f"{number}.json", tiny.facts(2, subject=f"gate {number}"))

    world.pass_time()
    world.pass_time()

    assert len(world.ledger.open_jobs()) == 3
    assert len(world.inbox.waiting()) == 3
    assert [event["code"] for event in told(world, "inbox_full")] == ["too_many_files"]

    # When all are learned in turn
    while world.ledger.open_jobs():
        world.models.sessions[-1].end()
        world.pass_time()

    assert world.done() == [f"{number}.json" for number in range(5)] + ["doors.json"]
    assert len(world.ledger.jobs()) == 6
    assert len(told(world, "inbox_full")) == 1


def test_a_step_takes_no_more_than_it_can_do_at_once(world):
    world.ledger.set_flag("paused", "yes")
    for number in range(TAKEN_AT_ONCE + 3):
        world.drop(f"{number}.json", tiny.facts(1, subject=f"gate {number}"))

    world.pass_time()
    assert len(world.done()) == TAKEN_AT_ONCE
    world.pass_time()
    assert len(world.done()) == TAKEN_AT_ONCE + 3


class Meddled(InProcessReader):
    """A reader that does something to a file just after its rows were read, once for each thing to do."""

    def __init__(self, inbox, meddling):
        self.inbox = inbox
        self.meddling = meddling

    def read(self, file, *rest, **named):
        if self.meddling and isinstance(self.meddling[0], BaseException):
            raise self.meddling.pop(0)
        found = super().read(file, *rest, **named)
        if self.meddling:
            (taken,) = self.inbox.processing()
            self.meddling.pop(0)(taken.path)
        return found


def meddle(world, *meddling):
    world.wire(Meddled(world.inbox, list(meddling)))


def test_a_file_that_is_written_to_while_it_is_read_is_read_again_once_it_rests(world):
    # Given a program that overwrites a file through the handle that it still has
    meddle(world, lambda path: path.write_text(json.dumps(tiny.rows(tiny.facts(4)))))
    world.drop("doors.json", tiny.facts(2))

    world.pass_time()
    assert world.track.memory.all() == []
    assert "changed while it was read" in next(iter(world.inbox.delayed.values()))
    world.pass_time(4)  # less than it must rest
    assert world.track.memory.all() == []
    world.pass_time(6)

    assert len(world.track.memory.all()) == 4
    assert world.done() == ["doors.json"]
    assert world.inbox.delayed == {}


def test_what_may_pass_is_tried_again_and_what_cannot_is_not(world):
    # Given a file that cannot be read three times, and then is no dataset; and a good one
    passing = [
        PermissionError(errno.EACCES, "Permission denied"),
        MemoryError(),
        OSError(errno.EIO, "I/O error"),
    ]
    meddle(world, *passing)
    world.drop("bad.json", "{")

    for _ in range(20):  # one whose end is missing rests longer, before it is read and before it fails
        world.pass_time()

    assert world.reader.meddling == []
    assert world.failed() == ["bad.json", "bad.json.reason.json"]
    assert len(told(world, "failed")) == 1
    assert len(world.ledger.drops()) == 1


def test_after_a_restart_what_could_not_be_read_is_tried_at_once(world):
    meddle(world, *[OSError(errno.EIO, "I/O error")] * 9)
    world.drop("doors.json", tiny.facts(2))
    for _ in range(5):
        world.pass_time(60)
    assert world.done() == []

    world.database.close()
    world.start()
    world.pass_time(0)

    assert world.done() == ["doors.json"]


def test_a_file_that_cannot_be_moved_does_not_keep_others_waiting(world):
    class Stuck(Inbox):
        def take(self, item, drop):
            if item.path.name == "stuck.json":
                raise OSError(errno.EXDEV, "Invalid cross-device link")
            return super().take(item, drop)

    world.inbox = Stuck(
        world.home / "inbox", world.settings.inbox, ("chat",), world.home / "models" / "drops"
    )
    world.inbox.recover()
    world.wire(world.reader)
    path = world.drop("stuck.json", tiny.facts(2))
    os.utime(path, (1, 1))
    world.drop("doors.json", tiny.facts(4))

    world.pass_time()

    assert world.done() == ["doors.json"]
    assert "cross-device" in world.inbox.delayed[path]


def test_dropped_files_are_kept_for_as_many_days_as_one_says(tmp_path):
    world = World(tmp_path, Settings.model_validate({"inbox": {"settle_seconds": 5, "keep_done_days": 2}}))
    world.learn("doors.json", tiny.facts(4, "doors"))
    own = world.home / "inbox" / "done" / "mine"
    own.mkdir()
    world.now += 86_400
    world.learn("gates.json", tiny.facts(3, subject="gate"))
    assert world.done() == ["doors.json", "gates.json"]

    world.now += 2 * 86_400
    world.learn("mills.json", tiny.facts(2, subject="mill"))

    assert world.done() == ["gates.json", "mills.json"]
    assert own.is_dir()
    assert len(told(world, "done_pruned")) == 1
    world.learn("hats.json", tiny.facts(2, subject="hat"))
    assert len(told(world, "done_pruned")) == 1
    # and days pass without a session too
    world.now += 5 * 86_400
    world.loop.recovery.scrub(world.now)
    world.pass_time()
    assert world.done() == []
    world.database.close()


def test_a_label_that_only_a_version_still_knows_keeps_its_spelling(tmp_path):
    # Given a version that learned a label of which every example was forgotten on purpose
    track = TrackSettings(task="text_classification")
    world = World(tmp_path, SETTINGS.model_copy(update={"tracks": {"chat": track}}))
    world.models.known_labels = ("Spam",)
    world.drop("more.json", json.dumps([{"text": "Win a prize", "label": "spam"}]))

    world.pass_time()

    reason = files.read_json(world.home / "inbox" / "failed" / "more.json.reason.json")
    assert (reason["code"], reason["field"]) == ("bad_rows", "label")
    assert "the label 'spam' differs from 'Spam' in case only" in reason["message"]
    assert world.ledger.jobs() == []
    world.database.close()
