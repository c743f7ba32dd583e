"""Documents over HTTP: searching, listing, reading and removing them, and asking with them."""

import pytest
from fake_app import HELLO, FakeDaemon, served
from fake_daemon import DOCUMENT, PASSAGE

from lorad.errors import ProtocolError
from lorad.retrieval.answering import Reply
from lorad.retrieval.citations import Citation
from lorad.serving.client import Client
from lorad.serving.record_json import as_json
from lorad.storage.documents import Filter


@pytest.fixture
def daemon():
    return FakeDaemon()


@pytest.fixture
def client(daemon, tmp_path):
    with served(daemon, tmp_path / "lorad.sock") as path:
        yield Client(path)


def test_a_search_says_what_where_and_how(client, daemon):
    found = client.search(
        "mill", k=3, how="bm25", tags=["water"], documents=[7], since="2026", until="2026-05"
    )

    assert as_json(found) == {"track": "documents", "passages": [PASSAGE], "left": 3}
    where = Filter(documents=(7,), tags=("water",), since="2026", until="2026-05")
    assert daemon.asked == [("documents", "mill", 3, "bm25", where)]
    client.search("mill")
    assert daemon.asked[-1] == ("documents", "mill", 10, None, Filter())


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({}, "query: is missing"),
        ({"query": ""}, "query"),
        ({"query": "x" * 10_001}, "query"),
        ({"query": "x", "k": 0}, "k"),
        ({"query": "x", "k": 1000}, "k"),
        ({"query": "x", "how": "magic"}, "how"),
        ({"query": "x", "since": "soon"}, "since"),
        ({"query": "x", "documents": [-1]}, "documents"),
        ({"query": "x", "limit": 3}, "there is no such field"),
    ],
)
def test_a_search_that_cannot_be_made_is_refused_by_field(client, daemon, body, told):
    with pytest.raises(ProtocolError) as caught:
        client.call("POST", "/lorad/search", body)

    assert caught.value.status == 400
    assert told in caught.value.message
    assert daemon.asked == []


def test_documents_are_listed_shown_and_removed(client, daemon):
    assert as_json(client.documents(name="v.md", before=9)) == {"track": "documents", "documents": [DOCUMENT]}
    assert as_json(client.document(7)) == DOCUMENT | {"text": "a mill", "spans": [[0, 6]]}
    assert as_json(client.remove_documents([7])) == {"track": "documents", "documents": [DOCUMENT]}
    client.remove_documents(name="v.md", track="law")

    assert daemon.asked == [
        ("documents", "v.md", 9, 1000),
        ("documents", 7),
        ("documents", [7], ""),
        ("law", [], "v.md"),
    ]
    for body in ({}, {"documents": [7], "name": "v.md"}):
        with pytest.raises(ProtocolError, match="name either"):
            client.call("POST", "/lorad/documents/remove", body)
    with pytest.raises(ProtocolError) as caught:
        client.document(8)
    assert caught.value.code == "no_such_document"


def test_an_answer_says_which_passages_it_rests_on(client, daemon):
    known = {name: value for name, value in PASSAGE.items() if name in Citation.__dataclass_fields__}
    cited = Citation(**known | {"number": 1, "heading": ("The mill",)})
    daemon.reply = Reply(mode="passages", messages=HELLO, passages=(cited,))

    whole = client.chat(HELLO, lorad={"retrieve": "documents"})
    stream = client.stream_chat(HELLO, lorad={"retrieve": "documents"})
    list(stream)

    assert daemon.retrieve == "documents"
    assert as_json(whole.lorad) == as_json(stream.origin)
    assert whole.lorad.mode == "passages"
    (passage,) = whole.lorad.passages
    assert (passage.document, passage.heading, passage.start, passage.end) == (7, ("The mill",), 0, 6)


def test_an_answer_without_passages_does_not_speak_of_any(client, daemon):
    daemon.reply = Reply(mode="weights")

    assert client.call("POST", "/v1/chat/completions", {"messages": HELLO})["lorad"] == {
        "mode": "weights",
        "sources": [],
    }
