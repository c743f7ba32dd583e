"""Memory: what is new, what is replaced, what a version and its ancestors must know, what is forgotten."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from lorad.config import InboxSettings
from lorad.datasets import reader
from lorad.records import Example
from lorad.storage.database import Database
from lorad.storage.ledger import Ledger
from lorad.storage.memory import Memory
from lorad.storage.strict_json import is_deeper


@pytest.fixture
def drop(database):
    """Return a way to take a file out of the inbox, as only those have examples."""
    ledger = Ledger(database)
    return lambda name="a.json", track="chat": ledger.take(name, track, 1.0).id


def an_example(asked="Where is the mill?", answer="By the river.", dataset="mills", line=1):
    question = [{"role": "user", "content": asked}]
    return Example(task="chat", input=question, target=answer, dataset=dataset, line=line)


MILL = an_example()
MOVED = an_example(answer="On the hill.", dataset="news")
FORD = an_example("Where is the ford?", "Below the mill.", line=2)
INN = an_example("Where is the inn?", "At the crossing.", dataset="inns")


def learn(memory, drop, version, *examples):
    """Accept examples and let a version learn them."""
    intake = memory.add(examples, drop(), 1.0)
    memory.mark_learned([example.ids for example in examples], version)
    return intake


def known(memory, *lineage):
    return [item.example for item in memory.learned(lineage)]


def test_what_is_kept_is_told_once_and_what_is_forgotten_not(memory, drop):
    learn(memory, drop, "v0.1", MILL, FORD, INN)
    memory.add([MOVED, an_example("Where else?", FORD.target)], drop(), 3.0)
    memory.forget("inns", 4.0)

    assert list(memory.targets()) == [MILL.target, FORD.target, MOVED.target]


def test_memory_is_read_page_by_page(memory, database, drop):
    # Given four examples, of which one was forgotten
    learn(memory, drop, "v0.1", MILL, FORD, INN)
    memory.forget("inns", 2.0)
    memory.add([an_example("Where is the well?", "In the yard.")], drop(), 3.0)
    memory.record_recall("v0.1", {MILL.id: True})

    first = memory.page(limit=2)
    rest = memory.page(after=first[-1]["provenance"]["row"])

    assert [row["messages"][-1]["content"] for row in first] == ["By the river.", "Below the mill."]
    assert [row["messages"][0] for row in rest] == [{"role": "user", "content": "Where is the well?"}]
    told = first[0]["provenance"]
    assert (told["learned_in"], told["recalled"], told["recalled_in"]) == ("v0.1", 1, "v0.1")
    assert rest[0]["provenance"]["learned_in"] is None
    assert memory.page(after=99) == []
    assert [row["dataset"] for row in memory.page("mills")] == ["mills"] * 3
    assert Memory(database, "tags").page() == []


def test_a11_a_page_ends_when_it_is_long_and_the_next_one_goes_on(memory, drop):
    # Given five answers of a megabyte each, and a short one behind them
    long = [an_example(f"What is {number}?", "x" * 1_000_000) for number in range(5)]
    memory.add([*long, FORD], drop(), 1.0)

    pages, after = [], 0
    while page := memory.page(after=after):
        pages.append(len(page))
        after = page[-1]["provenance"]["row"]

    assert pages == [4, 2]
    memory.add([INN], drop(), 2.0)  # a page that was not read to its end keeps nothing locked


def test_calls_of_tools_come_back_from_an_export(memory, drop, tmp_path):
    # Given a conversation that calls a tool and makes something of what it said
    known = reader.read(Path(__file__).parents[1] / "data" / "openai_tools.jsonl", InboxSettings()).examples[
        :2
    ]
    memory.add(known, drop(), 1.0)
    exported = tmp_path / "export.jsonl"
    exported.write_text("".join(json.dumps(row) + "\n" for row in memory.page()))

    again = reader.read(exported, InboxSettings()).examples

    assert {example.id for example in again} == {example.id for example in known}


@pytest.mark.parametrize(
    ("task", "row"),
    [
        (
            "spectra",
            {"smiles": "c1ccccc1", "mzs": [51.02, 78.05], "intensities": [0.3, 1.0], "adduct": "[M+H]+"},
        ),
        (
            "tagging",
            {
                "tokens": ["Anna", "Maria", "works", "at", "IBM"],
                "tags": ["B-PER", "I-PER", "O", "O", "B-ORG"],
            },
        ),
        ("tagging", {"text": "nobody is named", "spans": []}),
        ("classify", {"text": "late again", "label": "complaint"}),
        ("classify", {"text": "late again", "labels": ["complaint", "delivery"]}),
        ("classify", {"text": "late again", "labels": []}),
        ("classify", {"text": "late again", "label": {"good": 0.25, "bad": 0.75}}),
    ],
)
def test_what_a_track_has_learned_comes_back_from_an_export(memory, drop, tmp_path, task, row):
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    known = reader.read(tmp_path / "rows.jsonl", InboxSettings(), task).examples
    memory.add(known, drop(), 1.0)
    exported = tmp_path / "export.jsonl"
    exported.write_text("".join(json.dumps(row) + "\n" for row in memory.page()))

    again = reader.read(exported, InboxSettings(), task).examples

    assert len(known) == 1
    assert [example.id for example in again] == [example.id for example in known]


def test_what_was_only_context_is_not_taught_by_an_export(memory, drop, tmp_path):
    # Given the second turn of a conversation
    turns = [
        {"role": "user", "content": "Where is the mill?"},
        {"role": "assistant", "content": "I will not say."},
        {"role": "user", "content": "Please."},
    ]
    memory.add(
        [Example(task="chat", input=turns, target="By the river.", dataset="m", line=1)],
        drop(),
        1.0,
    )
    exported = tmp_path / "export.jsonl"
    exported.write_text("".join(json.dumps(row) + "\n" for row in memory.page()))

    again = reader.read(exported, InboxSettings()).examples

    assert [example.target for example in again] == ["By the river."]


def test_a_page_leaves_out_what_was_replaced(memory, drop):
    learn(memory, drop, "v0.1", MILL)
    learn(memory, drop, "v0.2", MOVED)

    assert [row["dataset"] for row in memory.page()] == ["news"]


# adding


def test_what_is_added_comes_back_as_it_was(memory, drop):
    example = Example(
        task="chat",
        input=[{"role": "system", "content": "é"}, {"role": "user", "content": 'a "b"\n'}],
        target="c\\d",
        dataset="odd",
        line=7,
    )

    intake = memory.add([example], drop(), 1.0)

    assert (intake.new, intake.known, intake.replacing) == (1, 0, ())
    assert memory.all() == [example]


def test_what_is_known_word_for_word_is_counted_and_not_kept_twice(memory, drop):
    first, second = drop("a.json"), drop("b.json")
    memory.add([MILL, FORD], first, 1.0)

    intake = memory.add([FORD, INN], second, 2.0)

    assert (intake.new, intake.known) == (1, 1)
    assert memory.all() == [MILL, FORD, INN]
    assert memory.of_drop("mills", first) == [MILL, FORD]
    assert memory.of_drop("inns", second) == [INN]


def test_a_drop_brought_only_what_it_brought(memory, drop):
    # Given two files of one name, of which the second adds a row
    first, second = drop(), drop()
    memory.add([MILL], first, 1.0)
    memory.add([MILL, FORD], second, 2.0)

    assert memory.of_drop("mills", first) == [MILL]
    assert memory.of_drop("mills", second) == [FORD]


def test_another_answer_to_a_known_question_replaces_it(memory, drop):
    memory.add([MILL, FORD], drop(), 1.0)

    intake = memory.add([MOVED], drop(), 2.0)

    assert (intake.new, intake.replacing) == (1, (MILL,))


def test_until_the_new_answer_is_learned_the_old_one_stays(memory, drop):
    learn(memory, drop, "v0.1", MILL)
    memory.add([MOVED], drop(), 2.0)

    assert known(memory, "v0.1") == [MILL]
    assert memory.all() == [MILL, MOVED]


def test_an_answer_that_was_replaced_may_come_back(memory, drop):
    # Given an answer that was replaced by another one
    learn(memory, drop, "v0.1", MILL)
    learn(memory, drop, "v0.2", MOVED)

    # When the world changes back
    intake = learn(memory, drop, "v0.3", MILL)

    # Then the first answer is new again, and the second steps back
    assert (intake.new, intake.known, intake.replacing) == (1, 0, (MOVED,))
    assert known(memory, "v0.3", "v0.2", "v0.1") == [MILL]


def test_an_old_answer_that_takes_back_one_that_waits_is_new(memory, drop):
    # Given a mistake that waits in the queue, and the file before it dropped again
    learn(memory, drop, "v0.1", MILL)
    mistake, again = drop(), drop()
    memory.add([MOVED], mistake, 2.0, ["v0.1"], {mistake})

    intake = memory.add([MILL], again, 3.0, ["v0.1"], {mistake, again})

    # Then the serving version is still expected to know it, and it is learned once more behind the mistake
    assert (intake.new, intake.replacing) == (1, (MOVED,))
    assert known(memory, "v0.1") == [MILL]
    assert memory.of_drop("mills", again) == [MILL]
    memory.mark_learned([MOVED.ids], "v0.2")
    memory.mark_learned([MILL.ids], "v0.3")
    assert known(memory, "v0.2", "v0.1") == [MOVED]
    assert known(memory, "v0.3", "v0.2", "v0.1") == [MILL]


def test_of_answers_that_wait_the_newest_is_the_last_word(memory, drop):
    burnt = an_example(answer="Nowhere, it burnt down.", dataset="fire")
    drops = [drop() for _ in range(4)]
    for number, example in enumerate((MOVED, burnt, MOVED)):
        intake = memory.add([example], drops[number], 1.0, [], set(drops))
        assert intake.new == 1

    assert memory.add([MOVED], drops[3], 1.0, [], set(drops)).known == 1


def test_tracks_do_not_share_memory(memory, database, drop):
    memory.add([MILL], drop(), 1.0)
    law = Memory(database, "law")

    intake = law.add([MILL, MOVED], drop(track="law"), 2.0)

    assert (intake.new, intake.replacing) == (2, ())
    assert memory.all() == [MILL]
    assert law.forget("mills", 3.0) == 1
    assert memory.all() == [MILL]


def test_examples_are_added_all_or_none(memory):
    with pytest.raises(Exception, match="FOREIGN KEY"):
        memory.add([MILL, FORD], 99, 1.0)

    assert memory.all() == []


# learned, by lineage


def test_a_version_must_know_what_it_and_its_ancestors_learned(memory, drop):
    learn(memory, drop, "v0.1", MILL)
    learn(memory, drop, "v0.2", FORD)
    memory.add([INN], drop(), 1.0)

    assert known(memory, "v0.2", "v0.1") == [MILL, FORD]
    assert known(memory, "v0.1") == [MILL]
    assert known(memory) == []


def test_what_only_a_rolled_back_version_knew_is_expected_of_nobody_else(memory, drop):
    # Given v0.2, rolled back, and v0.3 learned from v0.1
    learn(memory, drop, "v0.1", MILL)
    learn(memory, drop, "v0.2", FORD)
    learn(memory, drop, "v0.3", INN)

    assert known(memory, "v0.3", "v0.1") == [MILL, INN]
    assert known(memory, "v0.2", "v0.1") == [MILL, FORD]


def test_an_answer_is_replaced_only_for_who_learned_the_new_one(memory, drop):
    learn(memory, drop, "v0.1", MILL, FORD)
    learn(memory, drop, "v0.2", MOVED)

    assert known(memory, "v0.2", "v0.1") == [FORD, MOVED]
    assert known(memory, "v0.1") == [MILL, FORD]
    assert known(memory, "v0.3", "v0.1") == [MILL, FORD]


def test_what_is_learned_again_after_a_rollback_is_not_lost_when_that_is_undone(memory, drop):
    # Given v0.2, rolled back, whose file was learned once more as v0.3
    learn(memory, drop, "v0.1", MILL)
    learn(memory, drop, "v0.2", FORD)
    memory.add([FORD], drop(), 2.0, ["v0.1"], set())
    memory.mark_learned([FORD.ids], "v0.3")

    assert known(memory, "v0.3", "v0.1") == known(memory, "v0.2", "v0.1") == [MILL, FORD]


def test_a_newer_answer_that_waits_again_is_still_known_to_who_learned_it(memory, drop):
    # Given a rollback from the newer answer, and its file dropped again
    learn(memory, drop, "v0.1", MILL)
    learn(memory, drop, "v0.2", MOVED)
    assert memory.add([MOVED], drop(), 3.0, ["v0.1"], set()).new == 1

    assert known(memory, "v0.1") == [MILL]
    assert known(memory, "v0.2", "v0.1") == [MOVED]


def test_after_a_rollback_what_serves_is_exported_and_counted(memory, drop):
    learn(memory, drop, "v0.1", MILL, FORD)
    learn(memory, drop, "v0.2", MOVED)
    memory.record_recall("v0.1", {MILL.id: True, FORD.id: True, MOVED.id: True})

    def answers(lineage):
        return [row["messages"][-1]["content"] for row in memory.page(lineage=lineage)]

    assert answers(["v0.2", "v0.1"]) == [FORD.target, MOVED.target]
    assert answers(["v0.1"]) == [MILL.target, FORD.target]
    assert memory.all(["v0.1"]) == [MILL, FORD]
    counted = memory.datasets(["v0.1"])
    assert [(row["dataset"], row["learned"], row["recalled"], row["replaced"]) for row in counted] == [
        ("mills", 2, 2, 0),
        ("news", 0, 0, 1),
    ]
    assert memory.datasets(["v0.2", "v0.1"])[0]["replaced"] == 1


def test_two_branches_may_replace_one_answer_differently(memory, drop):
    # Given v0.2 and v0.3, both learned from v0.1, each with its own newer answer
    burnt = an_example(answer="Nowhere, it burnt down.", dataset="fire")
    learn(memory, drop, "v0.1", MILL)
    learn(memory, drop, "v0.2", MOVED)
    learn(memory, drop, "v0.3", burnt)

    assert known(memory, "v0.3", "v0.1") == [burnt]
    assert known(memory, "v0.2", "v0.1") == [MOVED]


def test_a_newer_answer_that_waits_is_not_replaced_by_an_older_one_learned_meanwhile(memory, drop):
    # Given two drops in the queue, of which the second corrects the first
    memory.add([MILL], drop(), 1.0)
    memory.add([MOVED], drop(), 2.0)

    memory.mark_learned([MILL.ids], "v0.1")
    assert memory.all() == [MILL, MOVED]

    memory.mark_learned([MOVED.ids], "v0.2")
    assert memory.all() == known(memory, "v0.2", "v0.1") == [MOVED]


def test_a_chain_of_newer_answers_leaves_the_newest(memory, drop):
    burnt = an_example(answer="Nowhere, it burnt down.", dataset="fire")
    for version, example in [("v0.1", MILL), ("v0.2", MOVED), ("v0.3", burnt)]:
        learn(memory, drop, version, example)

    assert known(memory, "v0.3", "v0.2", "v0.1") == [burnt]
    assert known(memory, "v0.2", "v0.1") == [MOVED]
    assert memory.all() == [burnt]


def test_learning_can_be_repeated(memory, drop):
    # Given a crash between learning and writing it down, so that it is written down twice
    learn(memory, drop, "v0.1", MILL)
    learn(memory, drop, "v0.2", MOVED)
    before = (known(memory, "v0.2", "v0.1"), memory.datasets())

    memory.mark_learned([MOVED.ids], "v0.2")

    assert (known(memory, "v0.2", "v0.1"), memory.datasets()) == before


def test_recall_is_that_of_the_last_test(memory, drop):
    learn(memory, drop, "v0.1", MILL, FORD, INN)

    memory.record_recall("v0.1", {MILL.id: True, FORD.id: True})
    memory.record_recall("v0.2", {FORD.id: False, "of another track": True})

    found = {item.example.id: item.right for item in memory.learned(["v0.1"])}
    assert found == {MILL.id: True, FORD.id: False, INN.id: False}


# other wordings


WORDED = replace(MILL, also_asked=("Mill where?", "The mill?"), held_out=("Find the mill",))


def test_wordings_come_back_with_their_example(memory, drop):
    number = drop()
    memory.add([WORDED, FORD], number, 1.0)
    memory.mark_learned([WORDED.ids], "v0.1")

    assert (
        memory.all()
        == memory.of_drop("mills", number)
        == memory.named([WORDED.id, FORD.id])
        == [WORDED, FORD]
    )
    assert known(memory, "v0.1") == [WORDED]


def test_an_export_keeps_what_is_trained_and_what_is_held_out(memory, drop, tmp_path):
    held = [
        WORDED,
        replace(FORD, held_out=("Ford?", "The ford?")),
        replace(INN, also_asked=("Inn?", "The inn?")),
    ]
    memory.add(held, drop(), 1.0)
    exported = tmp_path / "export.jsonl"
    exported.write_text("".join(json.dumps(row) + "\n" for row in memory.page()))

    again = reader.read(exported, InboxSettings()).examples

    assert [(each.id, each.also_asked, each.held_out) for each in again] == [
        (each.id, each.also_asked, each.held_out) for each in held
    ]


def test_more_wordings_of_a_known_example_are_added(memory, drop):
    learn(memory, drop, "v0.1", WORDED)
    spelled = replace(
        an_example("where is  the mill?"), also_asked=("find the MILL", "Mill, where?"), held_out=("Say",)
    )

    intake = memory.add([spelled], drop(), 2.0)

    assert (intake.new, intake.known, intake.wordings) == (0, 1, 2)
    expected = replace(
        WORDED, also_asked=(*WORDED.also_asked, "Mill, where?"), held_out=(*WORDED.held_out, "Say")
    )
    assert known(memory, "v0.1") == memory.all() == [expected]
    assert memory.add([spelled], drop(), 3.0).wordings == 0


def test_a_newer_answer_has_the_wordings_of_its_question(memory, drop):
    learn(memory, drop, "v0.1", WORDED)

    intake = memory.add([MOVED], drop(), 2.0)

    assert (intake.new, intake.wordings) == (1, 0)
    assert memory.all()[-1] == replace(MOVED, also_asked=WORDED.also_asked, held_out=WORDED.held_out)


def test_what_a_refused_session_left_has_its_wordings_when_it_comes_again(memory, drop):
    memory.add([WORDED], drop(), 1.0, open_drops=())

    intake = memory.add([MILL], drop(), 2.0, open_drops=())

    assert (intake.new, intake.wordings, memory.all()) == (1, 0, [WORDED])


def test_a_wording_that_another_example_asks_is_refused_whichever_comes_first(memory, drop):
    learn(memory, drop, "v0.1", FORD)

    first = memory.add([replace(MILL, also_asked=("where is the FORD?", "To the inn?"))], drop(), 2.0)
    second = memory.add([an_example("To the inn?", "Left.")], drop(), 3.0)

    assert [(each.wordings, each.refused_wordings) for each in (first, second)] == [(1, 1), (0, 1)]
    assert {each.target: each.also_asked for each in memory.all()}[MILL.target] == ()


def test_what_a_file_no_longer_calls_its_question_is_gone_with_its_earlier_reading(memory, drop):
    # Given a file that was read when it ended in the middle of a wording
    earlier = drop()
    memory.add([replace(MILL, also_asked=("Mill whe",))], earlier, 1.0)

    assert memory.only_in([earlier], [WORDED]) == set()
    memory.take_back([earlier], (), 2.0)
    memory.add([WORDED], drop(), 2.0)

    assert memory.all() == [WORDED]


def test_the_words_of_other_wordings_are_forgotten_too(memory, database, drop):
    memory.add([WORDED, FORD], drop(), 1.0)

    assert [memory.forget(text, 5.0) for text in ("Find the mill", "Mill where?")] == [1, 0]

    (row,) = database.rows("SELECT * FROM examples WHERE forgotten_at IS NOT NULL")
    assert not any(word in str(tuple(row)) for word in ("Find", "where", "The mill", "river"))
    # what comes again without them has none
    memory.add([MILL], drop(), 6.0)
    assert memory.all() == [MILL, FORD]


# forgetting


def test_a_dataset_is_forgotten_by_its_name(memory, drop):
    learn(memory, drop, "v0.1", MILL, FORD, INN)

    assert memory.forget("mills", 5.0) == 2

    assert memory.all() == known(memory, "v0.1") == [INN]


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("river", ["ford", "inn"]),
        ("Where is the inn?", ["mill", "ford"]),
        ("the mill", ["inn"]),  # in a question and in an answer
        ("nowhere", ["mill", "ford", "inn"]),
    ],
)
def test_what_holds_a_text_is_forgotten(memory, drop, text, left):
    learn(memory, drop, "v0.1", MILL, FORD, INN)
    expected = [example for name, example in (("mill", MILL), ("ford", FORD), ("inn", INN)) if name in left]

    assert memory.forget(text, 5.0) == 3 - len(left)

    assert memory.all() == expected


@pytest.mark.parametrize("text", ['say "é"', "a\\b", "line\nbreak", "日本"])
def test_a_text_is_found_whatever_its_letters(memory, drop, text):
    odd = an_example(f"What does {text} mean?", "Nothing.")
    memory.add([odd, INN], drop(), 1.0)

    assert memory.forget(text, 5.0) == 1
    assert memory.all() == [INN]


@pytest.mark.parametrize("text", ["%", "_", "Wh_re", "r%r", "role", "user", "content", "}", '"', "[{", ""])
def test_only_the_words_themselves_are_searched(memory, drop, text):
    # Given a text that no question and no answer holds, but that SQL or JSON have a use for
    memory.add([MILL, FORD, INN], drop(), 1.0)

    assert memory.forget(text, 5.0) == 0
    assert len(memory.all()) == 3


def test_forgetting_twice_forgets_no_more(memory, drop):
    # Given a dataset whose name is a word that other examples use
    inns = an_example("Is there an inn?", "Yes.", dataset="inn")
    memory.add([inns, INN], drop(), 1.0)

    assert memory.forget("inn", 5.0) == 1
    assert memory.forget("inn", 6.0) == 0

    assert memory.all() == [INN]


def test_what_was_forgotten_can_be_taught_again(memory, drop):
    learn(memory, drop, "v0.1", MILL)
    memory.record_recall("v0.1", {MILL.id: True})
    memory.forget("mills", 5.0)
    again = drop()

    intake = memory.add([MILL], again, 6.0)

    assert (intake.new, intake.known) == (1, 0)
    assert memory.of_drop("mills", again) == [MILL]
    assert known(memory, "v0.1") == []  # it is to be learned anew


def test_forgetting_a_newer_answer_does_not_bring_back_the_older(memory, drop):
    learn(memory, drop, "v0.1", MILL)
    learn(memory, drop, "v0.2", MOVED)

    memory.forget("On the hill", 5.0)

    assert known(memory, "v0.2", "v0.1") == []


def test_what_was_forgotten_and_comes_again_does_not_bring_back_the_older_while_it_waits(memory, drop):
    learn(memory, drop, "v0.1", MILL)
    learn(memory, drop, "v0.2", MOVED)
    memory.forget("On the hill", 5.0)

    intake = memory.add([MOVED], drop(), 6.0, ["v0.2", "v0.1"], set())

    assert (intake.new, known(memory, "v0.2", "v0.1")) == (1, [])
    memory.mark_learned([MOVED.ids], "v0.3")
    assert known(memory, "v0.3", "v0.2", "v0.1") == [MOVED]


# counting


def test_datasets_are_counted(memory, database, drop):
    # Given three datasets: one recalled in part and replaced in part, one forgotten, one not yet learned
    learn(memory, drop, "v0.1", MILL, FORD, INN)
    memory.record_recall("v0.1", {MILL.id: True, FORD.id: True, INN.id: True})
    learn(memory, drop, "v0.2", MOVED)
    memory.record_recall("v0.2", {MOVED.id: False})
    memory.forget("inns", 5.0)
    memory.add([an_example("Where is the well?", dataset="wells")], drop(), 1.0)

    assert memory.datasets() == [
        {"dataset": "mills", "examples": 2, "learned": 2, "recalled": 1, "replaced": 1, "forgotten": 0},
        {"dataset": "inns", "examples": 1, "learned": 1, "recalled": 0, "replaced": 0, "forgotten": 1},
        {"dataset": "news", "examples": 1, "learned": 1, "recalled": 0, "replaced": 0, "forgotten": 0},
        {"dataset": "wells", "examples": 1, "learned": 0, "recalled": 0, "replaced": 0, "forgotten": 0},
    ]
    assert Memory(database, "law").datasets() == []


def test_memory_survives_a_restart(tmp_path):
    path = tmp_path / "lorad.sqlite3"
    before = Database(path)
    ledger = Ledger(before)
    Memory(before, "chat").add([MILL], ledger.take("a.json", "chat", 1.0).id, 1.0)
    before.close()

    after = Database(path)

    assert Memory(after, "chat").all() == [MILL]
    after.close()


# questions in other spellings

SHOUTED = an_example("WHERE IS  the mill?", dataset="shouts")


def test_case_21_a_question_spelled_otherwise_with_another_answer_replaces(memory, drop):
    learn(memory, drop, "v0.1", MILL)
    louder = an_example("where is the mill? ", "On the hill.", dataset="news")

    intake = learn(memory, drop, "v0.2", louder)

    assert (intake.new, intake.replacing) == (1, (MILL,))
    assert known(memory, "v0.1", "v0.2") == [louder]
    assert known(memory, "v0.1") == [MILL]


def test_case_21_a_question_spelled_otherwise_with_the_same_answer_is_known(memory, drop):
    learn(memory, drop, "v0.1", MILL)

    intake = memory.add([SHOUTED, FORD], drop(), 2.0)

    assert (intake.new, intake.known, intake.replacing) == (1, 1, ())


def test_case_21_the_papers_of_an_older_version_name_questions_that_are_found_by_their_examples(memory, drop):
    memory.add([MILL], drop(), 1.0)

    memory.mark_learned([(MILL.id, "an older id")], "v0.1")
    memory.mark_learned([(MILL.id, "an older id")], "v0.1")

    assert known(memory, "v0.1") == [MILL]
    assert [row["learned"] for row in memory.datasets()] == [1]


def test_two_answers_of_one_version_may_be_forgotten_and_learned_anew(memory, drop):
    # Given a version from before questions had a normal form, that learned one in two spellings
    learn(memory, drop, "v0.1", MILL)
    memory.add([an_example("where is the mill?", "There.", dataset="lower")], drop(), 1.0)
    lower = memory.of_drop("lower", 2)
    memory.mark_learned([example.ids for example in lower], "v0.1")
    assert known(memory, "v0.1") == lower

    memory.forget("mills", 2.0)
    memory.forget("lower", 2.0)
    assert known(memory, "v0.1") == []

    learn(memory, drop, "v0.2", MILL)
    assert known(memory, "v0.1", "v0.2") == [MILL]


USER = {"role": "user", "content": "Where is the mill?"}
DEEP = json.loads("[" * 300 + "]" * 300)


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ([USER], "half \ud83d"),
        ([{"role": "user", "content": "\ud800"}], "a"),
        (
            [USER],
            {"content": "", "tool_calls": [{"name": "f", "arguments": {"\ud800": [float("inf"), "\udfff"]}}]},
        ),
        ([USER], {"content": "", "tool_calls": [{"name": "f", "arguments": {"a": DEEP}}]}),
        ([{"role": "tools", "content": json.dumps([{"name": "f", "x": DEEP}])}, USER], "a"),
        ([{"role": "tools", "content": '[{"name": "f", "x": Infinity}]'}, USER], "a"),
        ([{"role": "tools", "content": '[{"name": "f", "x": "\\ud800"}]'}, USER], "a"),
        ([{"role": "tools", "content": "[" * 5000}, USER], "a"),
        ([{"role": "tools", "content": "no JSON"}, USER], "a"),
    ],
)
def test_a11_whatever_an_older_lorad_kept_can_be_exported(memory, drop, database, question, answer):
    # Given a row that today's reader would refuse, and one behind it
    old = Example(task="chat", input=question, target=answer, dataset="d")
    memory.add([Example(task="chat", input=[USER], target="x", dataset="d")], drop(), 1.0)
    database.run(
        "UPDATE examples SET question = ?, answer = ?", json.dumps(old.input), json.dumps(old.target)
    )

    (row,) = memory.page()

    written = json.dumps(row, ensure_ascii=False, allow_nan=False)
    assert json.loads(written.encode())["messages"][-1]["role"] == "assistant"
    assert not is_deeper(row, 80)
