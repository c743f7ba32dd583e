"""What is quoted of passages: a sentence, an item or a row, word for word, and where it stands."""

import numpy as np
import pytest

from lorad.retrieval import quoting
from lorad.retrieval.document_store import Passage
from lorad.retrieval.odds import Odds
from lorad.storage.documents import Chunk

MANUAL = """# Boiler

The boiler is serviced in May. Dr. Hild does it, e.g. on Mondays.
She comes by boat - always - at 5. It is late.

## Parts

| part | number | price |
|------|--------|-------|
| door seal | KD-11 | 12.90 euros |
| valve \\| tap | KV-2 | |

To light it:

1. Open the valve,
   slowly.
2. Press the red knob.
- Wait.

```
p = 1.5 bar
```
"""


def passage(text=MANUAL, start=100, markup="markdown", title="Manual"):
    chunk = Chunk(1, 0, 7, title, "m.md", "", start, start + len(text), ("Heating",), None, text, markup)
    return Passage(chunk=chunk, score=1.0, similarity=0.5, coverage=1.0, relevance=1.0, is_relevant=True)


def test_a_passage_is_taken_apart_into_sentences_items_rows_and_code():
    found = quoting.pieces(passage())

    assert [(piece.heading, piece.compared) for piece in found] == [
        ("Boiler", "The boiler is serviced in May."),
        ("Boiler", "Dr. Hild does it, e.g. on Mondays."),
        ("Boiler", "She comes by boat - always - at 5."),
        ("Boiler", "It is late."),
        ("Parts", "part: door seal; number: KD-11; price: 12.90 euros"),
        ("Parts", "part: valve \\| tap; number: KV-2"),
        ("Parts", "Open the valve,\n   slowly."),
        ("Parts", "Press the red knob."),
        ("Parts", "Wait."),
        ("Parts", "```\np = 1.5 bar\n```"),
    ]
    assert MANUAL[found[4].start : found[4].end] == "| door seal | KD-11 | 12.90 euros |"
    assert MANUAL[found[6].start : found[6].end] == found[6].said


@pytest.mark.parametrize(
    "sentence",
    [
        "The gate is locked at 21:45.",
        "It costs 8.30 euros.",
        "Pi is 3.14 there.",
        "Take road No. 7 to Ford St. Anne.",
        "Dr. Olsen has the key.",
        "Call 555-0142.",
    ],
)
def test_a_sentence_with_figures_is_whole(sentence):
    found = quoting.pieces(passage(f"Before. {sentence} Nobody enters then.\n"))

    assert sentence in [piece.compared for piece in found]


def test_of_a_long_paragraph_a_sentence_is_quoted():
    text = "Word " * 60 + "ends. The key hangs behind the door."

    assert quoting.pieces(passage(text))[-1].said == "The key hangs behind the door."


@pytest.mark.parametrize(
    "text", ["a | b\nc | d", "| x |", "", "# only a heading", "x" * 5000, "| a |\n|---|\n"]
)
def test_any_text_can_be_taken_apart(text):
    for markup in ("plain", "markdown", "rst"):
        for piece in quoting.pieces(passage(text or " ", markup=markup)):
            assert text[piece.start : piece.end].strip()


def test_the_piece_that_scores_best_is_quoted_and_cited_where_it_stands():
    asked = []

    def score(question, texts):
        asked.append((question, texts))
        return [Odds(3.0 if "door seal" in text else -3.0, 0.0) for text in texts]

    def embed(texts):
        return np.array([[0.6, 0.8] if "KD-11" in text else [1.0, 0.0] for text in texts], np.float32)

    other = passage("The river is deep.", start=0)
    matcher = quoting.Matcher(score, embed)
    found = quoting.best(
        "What does the door seal cost?", [other, passage()], {"door": 1.0, "seal": 1.0}, matcher
    )

    assert found.text == "part: door seal; number: KD-11; price: 12.90 euros"
    assert found.score == pytest.approx(3.0 + 0.6 * quoting.NEAR + quoting.COVERED + quoting.EVEN)
    assert found.about == 0.0
    assert found.cited.text == "| door seal | KD-11 | 12.90 euros |"
    assert MANUAL[found.cited.start - 100 : found.cited.end - 100] == found.cited.text
    assert (found.cited.document, found.cited.number) == (7, 1)
    ((question, texts),) = asked
    assert question == "What does the door seal cost?"
    assert texts[0] == "Manual, Parts: part: door seal; number: KD-11; price: 12.90 euros"
    assert "Manual, Boiler: The boiler is serviced in May." in texts


def test_of_pieces_that_the_reranker_likes_alike_the_nearest_is_quoted():
    def embed(texts):
        return np.array([[0.0, 1.0] if "knob" in text else [1.0, 0.0] for text in texts], np.float32)

    matcher = quoting.Matcher(lambda _, texts: [Odds(0.0, 0.0) for _ in texts], embed)
    assert quoting.best("which knob", [passage()], {}, matcher).text == "Press the red knob."


def test_without_a_reranker_the_words_decide():
    rarities = {"serviced": 1.0, "boiler": 0.4, "when": 0.1}

    found = quoting.best("when is the boiler serviced", [passage()], rarities, None)

    assert found.text.startswith("The boiler is serviced in May. Dr. Hild does it")
    assert found.text.endswith("It is late.")  # a short paragraph is quoted whole
    assert MANUAL[found.cited.start - 100 : found.cited.end - 100] == found.text == found.cited.text
    assert found.score > 0
    assert quoting.best("what of the moon", [passage()], {"moon": 1.0}, None).score < 0
    assert quoting.best("what", [], {}, None) is None


@pytest.mark.parametrize(
    ("word", "text", "is_held"),
    [
        ("valves", "the valve opens", True),
        ("opens", "opening hours", True),
        ("opening", "opened", True),
        ("red", "reddish", False),
        ("red", "a red one", True),
    ],
)
def test_a_word_is_held_in_any_near_form(word, text, is_held):
    assert (quoting.coverage({word: 1.0}, text) == 1.0) is is_held
