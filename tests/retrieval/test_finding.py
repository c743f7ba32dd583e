"""From a question to the examples that may answer it."""

from dataclasses import replace

import pytest

from lorad.records import Example
from lorad.retrieval.finding import (
    ALONE,
    ANOTHER,
    BY_SIMILARITY,
    COMPARED,
    LACKING,
    NAMED,
    REACH,
    SIMILAR,
    Finding,
)
from lorad.retrieval.neighbours import Neighbour
from lorad.retrieval.odds import Odds
from lorad.retrieval.words import names, names_another


def example(number):
    return Example(
        task="chat",
        input=[{"role": "user", "content": f"Where is course CS {number} held at Alderbrook?"}],
        target=f"It is held in room {number}07.",
        dataset="courses",
        line=number,
    )


class Shelf:
    """An index that finds its examples in their order."""

    embedder = "0123456789abcdef"

    def __init__(self, count):
        self.examples = [example(number) for number in range(1, count + 1)]

    def written_out(self, question, lineage):
        del lineage
        return question

    def has_all(self, lineage):
        return "of which a part is embedded" not in lineage

    def search(self, question, lineage, most=8):
        del question, lineage
        return [
            Neighbour(example=each, similarity=0.9, score=1 / each.line, is_recalled=True)
            for each in self.examples[:most]
        ]


class Judging:
    """A reranker that likes no text."""

    fingerprint = "judging"

    def score(self, question, texts):
        del question
        return [Odds(-30.0, -3.0) for _ in texts]


ASKED = "anything"


def test_the_nearest_is_found_and_scored_by_the_index_where_there_is_no_reranker():
    finding = Finding(Shelf(9))
    found = finding.find(ASKED, ["v0.1"])
    assert found.neighbour.example.line == 1
    assert found.score == ALONE
    assert finding.scored_by == f"{BY_SIMILARITY} on 0123456789ab, form 7"


def test_a_reranker_says_how_well_it_answers():
    finding = Finding(Shelf(9), Judging())
    assert finding.find(ASKED, ["v0.1"]).score == SIMILAR - 30.0
    assert finding.scored_by == "judging on 0123456789ab, form 7"


class Level(Shelf):
    """An index whose examples are this far behind one another."""

    apart = 0.01

    def search(self, question, lineage, most=8):
        found = super().search(question, lineage, most)
        return [replace(each, score=0.8 - place * self.apart) for place, each in enumerate(found)]


class Preferring:
    """A reranker that prefers one course."""

    fingerprint = "preferring"

    def __init__(self, number, odds=3.0):
        self.number, self.odds, self.compared = number, odds, 0

    def score(self, question, texts):
        del question
        self.compared = len(texts)
        return [Odds(self.odds, 5.0) if f"CS {self.number} " in text else Odds(0.0, -5.0) for text in texts]


def test_of_the_nearest_few_the_reranker_chooses():
    found = Finding(Level(9), Preferring(2)).find(ASKED, [])
    assert found.neighbour.example.line == 2
    assert found.score == 3.0 + SIMILAR * 0.79


def test_what_is_about_another_code_of_the_same_form_answers_nothing():
    def score(question):
        return Finding(Level(1), Preferring(1)).find(question, []).score

    same, another, free = (
        score("Where is CS 1 held?"),
        score("Where is CS 2 held?"),
        score("Where is it held?"),
    )
    assert same == free
    assert another == same - ANOTHER
    assert score("Where is CS 22 held?") == same  # of another form: it may be anything


@pytest.mark.parametrize(
    ("asked", "other", "is_another"),
    [
        ("22000", "2201F", True),
        ("22000", "08001", True),
        ("CS 241", "CS 242", True),
        ("B12", "112", False),
        ("22000", "220001", False),
        ("22000", "the bakery", False),
        ("E_PARK", "E_QUEUE_FULL", True),
        ("E_PARK", "the bakery", False),
        ("E_PARK", "E4", False),
        ("E_PARK in my_script", "E_PARK when load_data runs", False),
    ],
)
def test_codes_of_one_form(asked, other, is_another):
    told = f"What does {other} mean?"
    assert names_another(f"What does {asked} mean?", told, f"{told} Nothing.") is is_another


def test_what_is_clearly_nearer_stays_first():
    assert Finding(Level(9), Preferring(2, odds=0.4)).find(ASKED, []).neighbour.example.line == 1
    assert Finding(Level(9), Preferring(9, odds=99.0)).find(ASKED, []).neighbour.example.line == 1


def test_only_what_is_near_the_first_is_compared():
    far = Level(9)
    far.apart = REACH + 0.01
    for shelf, compared in ((Level(9), COMPARED), (Level(2), 2), (far, 1)):
        reranker = Preferring(1)
        Finding(shelf, reranker).find(ASKED, [])
        assert reranker.compared == compared


def test_as_if_an_example_had_not_been_learned():
    shelf = Shelf(9)
    without = {shelf.examples[0].id, shelf.examples[1].id}
    assert Finding(shelf).find(ASKED, ["v0.1"], without=without).neighbour.example.line == 3


def test_nothing_is_found_until_all_that_a_version_learned_can_be():
    assert Finding(Shelf(9)).find(ASKED, ["of which a part is embedded"]) is None


def test_nothing_is_found_in_an_empty_memory():
    assert Finding(Shelf(0), Judging()).find(ASKED, ["v0.1"]) is None
    assert Finding(Shelf(1)).find(ASKED, [], without={example(1).id}) is None


def test_a_question_is_about_what_was_taught_as_far_as_the_reranker_says_so_of_any_near_example():
    assert Finding(Shelf(9), Judging()).find(ASKED, []).about == -3.0
    found = Finding(Level(9), Preferring(3, odds=-99.0)).find(ASKED, [])
    assert (found.neighbour.example.line, found.about) == (1, 5.0)


def test_without_a_reranker_a_question_that_names_something_is_more_likely_about_what_was_taught():
    def mentions(question):
        return Finding(Shelf(1)).find(question, []).about == 0.9 + NAMED

    assert mentions("Do you know Alderbrook?")
    assert mentions("cs1 where")
    assert not mentions("Nice is it")  # a first word has its capital anyway
    assert not mentions("How do I cook 40 eggs?")
    assert "i" not in names("What do I pay?")


def test_examples_without_facts_are_nothing_not_to_know():
    shelf = Shelf(4)
    assert Finding(shelf).find(ASKED, []).is_of_facts
    shelf.examples = [
        replace(each, target="with the greatest pleasure that there is") for each in shelf.examples[:3]
    ] + shelf.examples[3:]
    assert not Finding(shelf).find(ASKED, []).is_of_facts
    shelf.examples = [replace(each, target="It is 4. " * 90) for each in shelf.examples]
    assert not Finding(shelf).find(ASKED, []).is_of_facts


def test_what_hangs_on_more_than_its_question_is_not_found_by_that():
    shelf = Shelf(5)
    one = shelf.examples[0].input
    shelf.examples[0] = replace(shelf.examples[0], input=[{"role": "system", "content": "Be brief."}, *one])
    shelf.examples[1] = replace(shelf.examples[1], target={"content": "", "tool_calls": []})
    assert Finding(shelf).find(ASKED, []).neighbour.example.line == 3


def test_what_a_question_names_and_the_example_lacks_counts_against_it():
    class Lacking(Shelf):
        def search(self, question, lineage, most=8):
            return [replace(each, lacking=1.5) for each in super().search(question, lineage, most)]

    assert (
        Finding(Lacking(1)).find(ASKED, []).score == Finding(Shelf(1)).find(ASKED, []).score - 1.5 * LACKING
    )


class Spelling(Shelf):
    """An index that finds its second example once CS is written out."""

    def written_out(self, question, lineage):
        del lineage
        return question.replace("CS", "Computer Science")

    def search(self, question, lineage, most=8):
        found = super().search(question, lineage, most)
        return found[1:] if "Computer Science" in question else found


class Reading:
    """A reranker that likes questions with a word."""

    fingerprint = "reading"

    def __init__(self, liked):
        self.liked = liked

    def score(self, question, texts):
        return [Odds(5.0 if self.liked in question else -5.0, 0.0) for _ in texts]


@pytest.mark.parametrize(("liked", "line"), [("CS", 1), ("Computer Science", 2)])
def test_an_abbreviation_is_read_both_ways_and_the_better_one_counts(liked, line):
    found = Finding(Spelling(3), Reading(liked)).find("Where is the CS office?", ["v0.1"])
    assert (found.neighbour.example.line, found.score > 0) == (line, True)
