"""Documents in the daemon: dropped, found at once without a session, changed, removed, and asked."""

import json

import pytest
from fake_embedder import FakeEmbedder
from world import SETTINGS, World, told

from lorad.apps.daemon.document_tracks import Asking
from lorad.config import Settings
from lorad.errors import ProtocolError
from lorad.retrieval import quoting
from lorad.retrieval.answering import Reply
from lorad.retrieval.odds import Odds
from lorad.states import DropState

MANUAL = "# The mill\n\nIt stands by the river.\n\n# The ford\n\nCarts cross below the weir.\n"
TRACKS = {
    "chat": {},
    "documents": {"task": "retrieval", "split": {"min_tokens": 0}},
    "secret": {"task": "retrieval"},
}


def settings(**documents):
    given = SETTINGS.model_dump() | {"tracks": TRACKS, "documents": documents}
    return Settings.model_validate(given)


@pytest.fixture
def world(tmp_path):
    made = World(tmp_path, settings())
    yield made
    made.documents.close()
    made.database.close()


def drop(world, name, text, track="documents", meta=None):
    folder = world.home / "inbox" / track
    folder.mkdir(exist_ok=True)
    if meta:
        (folder / f"{name}.meta.yaml").write_text(meta)
    (folder / name).write_text(text if isinstance(text, str) else json.dumps(text))
    world.pass_time()
    while world.loop.step(world.now, world.ticks):
        pass


def found(world, query="the mill", track="documents", **given):
    return [each.text for each in world.documents.search(track, query, 10, **given).passages]


def test_a_drop_can_be_found_at_once_and_no_session_is_queued(world):
    drop(world, "village.md", MANUAL)

    assert found(world, "carts cross")[0].startswith("# The ford")
    assert world.ledger.jobs() == []
    (event,) = told(world, "stored")
    assert (event["file"], event["track"], event["new"]) == ("village.md", "documents", 1)
    assert world.ledger.drops()[0].state is DropState.ACCEPTED
    assert [path.name for path in (world.home / "inbox" / "done").rglob("*.md")] == ["village.md"]
    assert world.documents.counts()["documents"].documents == 1


def test_a_changed_document_replaces_its_chunks_and_says_so(world):
    drop(world, "village.md", MANUAL)
    drop(world, "village.md", MANUAL.replace("stands by the river", "has burnt down"))

    assert "river" not in "".join(found(world))
    assert told(world, "stored")[-1]["replacing"] == 1
    assert world.ledger.drops()[0].reason["documents"] == {"replacing": 1}


def test_the_same_file_twice_is_one(world):
    drop(world, "village.md", MANUAL)
    drop(world, "village.md", MANUAL)

    assert world.ledger.drops()[0].state is DropState.DUPLICATE
    assert told(world, "duplicate")[-1]["why"] == "every document is already known"
    assert len(found(world)) == 2


def test_rows_are_documents_and_a_sidecar_tells_more_of_them(world):
    rows = [{"title": f"Fact {n}", "text": f"Mill {n} grinds.", "tags": ["row"]} for n in range(3)]
    meta = "tags: [file]\ndate: '2026-05-01'\nsplit: sentence\n"
    drop(world, "facts.jsonl", "\n".join(map(json.dumps, rows)), meta=meta)

    documents = world.documents.documents("documents").documents
    assert [(each.title, each.tags, each.date) for each in documents] == [
        (f"Fact {n}", ("file", "row"), "2026-05-01") for n in (2, 1, 0)
    ]
    assert len(world.documents.documents("documents", "Fact 1").documents) == 1
    older = world.documents.documents("documents", before=documents[0].id, limit=1).documents
    assert [each.title for each in older] == ["Fact 1"]


@pytest.mark.parametrize(
    ("track", "meta", "says"),
    [
        ("", "tags: [a]", "these are for documents"),
        ("documents", "labels: [a]", "retrieval has no labels"),
        ("documents", "split: words", "split"),
        ("documents", "date: 'tomorrow'", "date"),
    ],
)
def test_a_sidecar_that_does_not_fit_fails_the_file(world, track, meta, says):
    name = "a.json" if not track else "a.md"
    drop(world, name, [{"question": "q", "answer": "a"}] if not track else MANUAL, track, meta)

    assert says in told(world, "failed")[-1]["why"]


def test_what_cannot_be_read_fails_with_its_reason(world):
    drop(world, "a.md", "It grinds\0 there.\n")

    assert told(world, "failed")[-1]["code"] == "bad_rows"
    assert found(world) == []


def test_a_crash_between_store_and_ledger_stores_nothing_twice_and_says_the_same(world, monkeypatch):
    class Crash(BaseException):
        pass

    def crash(*_args, **_kwargs):
        raise Crash

    monkeypatch.setattr(world.ledger, "close_drop", crash)
    with pytest.raises(Crash):
        drop(world, "village.md", MANUAL)
    world.database.close()
    world.start()
    while world.loop.step(world.now, world.ticks):
        pass

    assert told(world, "stored")[-1]["new"] == 1
    assert len(world.documents.documents("documents").documents) == 1
    assert len(found(world)) == 2


def test_a_file_that_goes_on_after_it_was_read_is_read_again_and_loses_what_it_no_longer_says(world):
    drop(world, "facts.jsonl", json.dumps({"title": "a", "text": "Mill a."}))
    first = world.ledger.drops()[0]
    again = world.ledger.take("facts.jsonl", "documents", 2.0, again_of=first.id)
    assert len(found(world)) == 1

    world.documents.add("documents", [], drop=again.id, now=2.0, earlier=world.ledger.origins(again))

    assert found(world) == []


def test_documents_are_shown_and_removed(world):
    drop(world, "village.md", MANUAL)
    (known,) = world.documents.documents("documents").documents

    shown = world.documents.document("documents", known.id)
    assert [shown.text[start:end] for start, end in shown.spans] == [
        "# The mill\n\nIt stands by the river.",
        "# The ford\n\nCarts cross below the weir.",
    ]
    removed = world.documents.remove("documents", [], "village.md", 3.0)
    assert [each.id for each in removed.documents] == [known.id]
    assert found(world) == []
    assert told(world, "documents_removed")[-1]["documents"] == 1
    for wrong in (
        lambda: world.documents.document("documents", known.id),
        lambda: world.documents.search("chat", "x", 1),
    ):
        with pytest.raises(ProtocolError) as caught:
            wrong()
        assert caught.value.status == 404


def test_tracks_do_not_see_each_others_documents(world):
    drop(world, "village.md", MANUAL)
    drop(world, "plan.md", "# The raid\n\nIt is on Monday.\n", track="secret")

    assert "raid" not in "".join(found(world, "the raid on Monday"))
    assert found(world, "the raid", track="secret") == ["# The raid\n\nIt is on Monday."]


def test_a_restart_goes_on_where_it_was(world):
    drop(world, "village.md", MANUAL)
    world.database.close()
    world.start()

    assert len(found(world)) == 2
    assert world.loop.indexing.left("documents") == 0


# answering


def asking(question, *, room=1000, is_named=True, may_quote=True, is_small=False):
    messages = [{"role": "user", "content": question}]

    def measure(asked):
        return sum(len(message["content"].split()) for message in asked)

    return Asking(
        messages=messages,
        measure=measure,
        room=room,
        is_named=is_named,
        may_quote=may_quote,
        is_small=is_small,
    )


TAUGHT = Reply(mode="taught", messages=[{"role": "user", "content": "?"}])
WEIGHTS = Reply(mode="weights")


def test_a_question_stands_behind_its_passages_which_are_cited(world):
    drop(world, "village.md", MANUAL)

    reply = world.documents.reply("documents", asking("Where do carts cross?"), WEIGHTS)

    assert reply.mode == "passages"
    (message,) = reply.messages
    assert message["content"].endswith("Question: Where do carts cross?")
    cited = reply.passages[0]
    assert (cited.title, cited.heading, cited.number) == ("The mill", ("The ford",), 1)
    text = world.documents.document("documents", cited.document).text
    assert text[cited.start : cited.end] == cited.text
    assert "\n".join(f"> {line}" for line in cited.text.splitlines()) in message["content"]


def test_only_as_many_passages_stand_there_as_fit(world):
    drop(world, "village.md", MANUAL)
    everything = "the mill by the river, and carts cross the ford below the weir"

    def count(room):
        reply = world.documents.reply("documents", asking(everything, room=room), None)
        return len(reply.passages) if reply.mode == "passages" else 0

    assert count(1000) == 2
    assert count(65) == 1
    assert count(5) == 0


def test_nothing_relevant_is_said_if_documents_were_asked_for(world):
    drop(world, "village.md", MANUAL)
    question = "quarterly turbine revenue"

    said = world.documents.reply("documents", asking(question), WEIGHTS)
    assert (said.mode, said.text, said.passages) == (
        "not_found",
        "I found nothing about that in the documents.",
        (),
    )
    alone = world.documents.reply("documents", asking(question, is_named=False), WEIGHTS)
    assert (alone.mode, alone.documents) == ("weights", "documents")
    assert world.documents.reply("documents", asking(question, may_quote=False), None).mode == "weights"
    assert world.documents.reply("documents", asking(question), TAUGHT) is TAUGHT


@pytest.mark.parametrize(("prefer", "mode"), [("facts", "taught"), ("passages", "passages")])
def test_facts_and_passages_go_together_as_is_set(tmp_path, prefer, mode):
    world = World(tmp_path, settings(prefer=prefer))
    drop(world, "village.md", MANUAL)

    assert world.documents.reply("documents", asking("Where do carts cross?"), TAUGHT).mode == mode
    world.documents.close()
    world.database.close()


def test_a_small_model_is_not_asked_to_copy_but_quoted_for(world):
    drop(world, "village.md", MANUAL)

    reply = world.documents.reply("documents", asking("Where do carts cross?", is_small=True), WEIGHTS)

    assert (reply.mode, reply.text) == ("quoted", "Carts cross below the weir.")
    (cited,) = reply.passages
    text = world.documents.document("documents", cited.document).text
    assert text[cited.start : cited.end] == cited.text == reply.text
    question = asking("Where do carts cross?", is_small=True, may_quote=False)
    assert world.documents.reply("documents", question, None).mode == "passages"


@pytest.mark.parametrize(
    ("answer", "is_small", "mode"), [("quote", False, "quoted"), ("generate", True, "passages")]
)
def test_whether_to_quote_can_be_set(tmp_path, answer, is_small, mode):
    world = World(tmp_path, settings(answer=answer))
    drop(world, "village.md", MANUAL)

    assert (
        world.documents.reply("documents", asking("Where do carts cross?", is_small=is_small), None).mode
        == mode
    )
    world.documents.close()
    world.database.close()


def test_a_piece_that_answers_nothing_is_not_quoted(tmp_path):
    world = World(tmp_path, settings(min_quote_score=50.0))
    drop(world, "village.md", MANUAL)

    reply = world.documents.reply("documents", asking("Where do carts cross?", is_small=True), None)
    assert reply.mode == "not_found"
    assert reply.passages[0].text == "# The ford\n\nCarts cross below the weir."
    world.documents.close()
    world.database.close()


@pytest.mark.parametrize(
    ("is_named", "about", "mode"), [(True, -5.0, "quoted"), (False, 5.0, "quoted"), (False, -5.0, "weights")]
)
def test_the_reranker_reads_what_a_cosine_would_pass_by(tmp_path, is_named, about, mode):
    world = World(tmp_path, settings(min_relevance=1.4))
    drop(world, "village.md", MANUAL)
    world.documents.close()
    embedder = FakeEmbedder()

    def score(question, texts):
        del question
        return [Odds(9.0 if "weir" in text else -9.0, about) for text in texts]

    world.documents.open(embedder, quoting.Matcher(score, embedder.embed))

    reply = world.documents.reply(
        "documents", asking("how do waggons get over the ford", is_named=is_named, is_small=True), WEIGHTS
    )

    assert reply.mode == mode
    assert reply.text == ("Carts cross below the weir." if mode == "quoted" else None)
    world.documents.close()
    world.database.close()
