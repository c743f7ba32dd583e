"""The chain of a system: who is asked what, where it ends, which variant answers."""

from dataclasses import replace

import pytest

from lorad.config import SystemSettings
from lorad.errors import ProtocolError
from lorad.serving.answers import Classification, Classifications, SystemMember
from lorad.serving.systems import Chain, choose

LCR = SystemSettings.model_validate(
    {
        "detector": {"track": "finder", "continue_on": ["found"]},
        "refinement": {"track": "refiner", "input": "{detector}: {text}"},
        "classifier": {"variants": {"large": "big", "small": "little"}, "input": "{refinement} / {text}"},
    }
)


class Models:
    """Says of each text what its table says, and notes what it was asked."""

    def __init__(self, said):
        self.said = said
        self.asked = []

    def classify(self, track, texts):
        self.asked.append((track, list(texts)))
        labels = [self.said[track, text] for text in texts]
        return Classifications(
            model=f"{track}@v0.3",
            system_fingerprint="v0.3-abc",
            classifications=tuple(
                Classification(label=label, labels=(label,), confidence=0.9, probabilities={label: 0.9})
                for label in labels
            ),
        )

    def describe(self, role, track, variant):
        return SystemMember(role=role, track=track, variant=variant, version="v0.1", corrupt=("v0.4",))


def run(models, texts, settings=LCR, variant=None):
    chain = Chain("lcr", settings, choose(settings, variant, lambda track: track != "big"))
    return chain.run(texts, models.classify, models.describe)


def test_each_step_is_asked_what_came_as_far_as_it_and_sees_what_was_said():
    models = Models(
        {
            ("finder", "x {detector}"): "found/here",
            ("finder", "y"): "nothing",
            ("refiner", "found/here: x {detector}"): "sharp",
            ("little", "sharp / x {detector}"): "a/b",
        }
    )

    answer = run(models, ["x {detector}", "y"])

    assert models.asked == [
        ("finder", ["x {detector}", "y"]),
        ("refiner", ["found/here: x {detector}"]),
        ("little", ["sharp / x {detector}"]),
    ]
    first, second = answer.results
    assert (first.label, first.ended_at) == ("a/b", "classifier")
    assert [step.role for step in first.steps] == ["detector", "refinement", "classifier"]
    assert first.steps[1].input == "found/here: x {detector}"
    assert (second.label, second.ended_at, len(second.steps)) == ("nothing", "detector", 1)
    assert [(member.role, member.track, member.variant) for member in answer.members] == [
        ("detector", "finder", ""),
        ("refinement", "refiner", ""),
        ("classifier", "little", "small"),
    ]
    assert {(member.version, member.corrupt) for member in answer.members} == {("v0.3", ("v0.4",))}


def test_where_no_text_goes_on_the_others_are_told_and_not_asked():
    models = Models({("finder", "y"): "foundling"})  # begins alike, and is another label

    answer = run(models, ["y"])

    assert [track for track, _ in models.asked] == ["finder"]
    assert [member.version for member in answer.members] == ["v0.3", "v0.1", "v0.1"]


def test_a_text_of_which_a_step_says_nothing_ends_there_where_the_next_would_read_nothing():
    class Silent(Models):
        """Names no label of a text that its table does not know."""

        def classify(self, track, texts):
            known = super().classify(track, [text for text in texts if (track, text) in self.said])
            told = iter(known.classifications)
            none = Classification(label=None, labels=(), confidence=0.9, probabilities={"found": 0.1})
            answers = (next(told) if (track, text) in self.said else none for text in texts)
            return replace(known, classifications=tuple(answers))

    settings = SystemSettings.model_validate(
        {"detector": {"track": "finder"}, "classifier": {"track": "little", "input": "{detector}"}}
    )
    models = Silent({("finder", "x"): "found", ("little", "found"): "a"})

    answer = run(models, ["y", "x"], settings)

    assert [(each.ended_at, each.label) for each in answer.results] == [
        ("detector", None),
        ("classifier", "a"),
    ]
    assert models.asked[-1] == ("little", ["found"])


def test_a_chain_that_nobody_waits_for_ends():
    models = Models({("finder", "y"): "found"})
    chain = Chain("lcr", LCR, choose(LCR, None, lambda _: True))
    chain.cancelled.set()

    with pytest.raises(ProtocolError, match="cancelled"):
        chain.run(["y"], models.classify, models.describe)
    assert models.asked == []


@pytest.mark.parametrize(
    ("configured", "asked", "usable", "track"),
    [
        ("auto", None, {"big", "little"}, "big"),
        ("auto", None, {"little"}, "little"),
        ("auto", None, set(), "little"),
        ("large", None, {"little"}, "big"),
        ("large", "small", {"big"}, "little"),
    ],
)
def test_the_variant_is_chosen_by_name_or_the_largest_that_can_be(configured, asked, usable, track):
    role = LCR.classifier.model_copy(update={"variant": configured})

    found = choose(LCR.model_copy(update={"classifier": role}), asked, usable.__contains__)

    assert found["classifier"][1] == track
    assert found["detector"] == ("", "finder")


def test_a_variant_that_no_role_has_is_told():
    with pytest.raises(ProtocolError, match="no variant 'tiny'; known: large, small") as caught:
        choose(LCR, "tiny", lambda _: True)

    assert (caught.value.status, caught.value.code) == (404, "no_such_variant")


def test_a_text_that_a_later_step_cannot_read_is_named_as_the_request_has_it():
    models = Models({("finder", "no"): "nothing", ("finder", "yes"): "found/here"})

    def classify(track, texts):
        if track == "refiner":
            raise ProtocolError("too long", status=422, code="context_length_exceeded", param="inputs[0]")
        return models.classify(track, texts)

    chain = Chain("lcr", LCR, choose(LCR, None, lambda _: True))
    with pytest.raises(ProtocolError, match="too long") as caught:
        chain.run(["no", "yes"], classify, models.describe)

    assert (caught.value.status, caught.value.data["param"]) == (422, "inputs[1]")
