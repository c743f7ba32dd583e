"""From a question to the examples that may answer it."""

from dataclasses import replace

from lorad.records import Example
from lorad.retrieval.finding import AS_TAUGHT, BY_SIMILARITY, RERANKED, Finding
from lorad.retrieval.neighbours import Neighbour


def example(number):
    return Example(
        task="chat",
        input=[{"role": "user", "content": f"Where is course CS {number} held at Alderbrook?"}],
        target=f"It is held in room {number}.",
        dataset="courses",
        line=number,
    )


class Shelf:
    """An index that finds its examples in their order."""

    def __init__(self, count):
        self.examples = [example(number) for number in range(1, count + 1)]

    def search(self, question, lineage, most=8):
        del question, lineage
        return [
            Neighbour(example=each, similarity=0.9, score=1 / each.line, is_recalled=True)
            for each in self.examples[:most]
        ]


class Last:
    """A reranker that likes the last text best."""

    fingerprint = "last"

    def score(self, question, texts):
        del question
        return [30.0 * number for number in range(len(texts))]


def lines(found):
    return [each.neighbour.example.line for each in found]


def test_without_a_reranker_the_nearest_comes_first():
    finding = Finding(Shelf(9))
    assert lines(finding.find("anything", ["v0.1"])) == [1, 2, 3, 4]
    assert finding.scored_by == BY_SIMILARITY


def test_a_reranker_decides_among_the_nearest():
    finding = Finding(Shelf(9), Last())
    found = finding.find("anything", ["v0.1"])
    assert lines(found) == [4, 3, 2, 1]
    assert [each.score for each in found] == sorted((each.score for each in found), reverse=True)
    assert finding.scored_by == "last"


def test_as_if_an_example_had_not_been_learned():
    shelf = Shelf(9)
    found = Finding(shelf).find("anything", ["v0.1"], without={shelf.examples[1].id})
    assert lines(found) == [1, 3, 4, 5]
    assert len(found) == RERANKED


def test_nothing_is_found_in_an_empty_memory():
    assert Finding(Shelf(0), Last()).find("anything", ["v0.1"]) == []


def test_names_and_codes_of_the_question_are_looked_for_in_the_example():
    def mentions(question):
        return Finding(Shelf(1)).find(question, [])[0].mentions

    assert mentions("Do you know Alderbrook?")
    assert mentions("cs 1 where")
    assert not mentions("Alderbrook is nice")  # a first word has its capital anyway
    assert not mentions("How do I cook soup?")
    assert not mentions("Do you know Oxford?")


def test_a_question_as_it_was_taught_is_answered_whatever_the_reranker_says():
    found = Finding(Shelf(9), Last()).find("where is course CS 3 HELD at Alderbrook?", ["v0.1"])
    assert lines(found)[0] == 3
    assert found[0].score == AS_TAUGHT


def test_what_a_question_names_and_the_example_lacks_counts_against_it():
    class Lacking(Shelf):
        def search(self, question, lineage, most=8):
            return [
                replace(each, lacking=float(place))
                for place, each in enumerate(super().search(question, lineage, most))
            ]

    plain = Finding(Shelf(2)).find("anything", [])
    less = Finding(Lacking(2)).find("anything", [])
    assert less[0].score == plain[0].score
    assert less[1].score < plain[1].score
