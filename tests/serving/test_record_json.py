"""Records as JSON and back, for a record of today and data of another day."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from lorad.serving.answers import FileReport, ShownExample, Status, report_of
from lorad.serving.record_json import OPTIONAL, RecordError, as_json, fields_of, read, rest
from lorad.states import DropState


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaf:
    name: str
    size: int = 3
    others: Mapping[str, Any] = rest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    root: Leaf
    state: DropState = DropState.FAILED
    kind: Literal["oak", "elm"] = "oak"
    height: float
    leaves: tuple[Leaf, ...] = ()
    named: Mapping[str, Leaf] = field(default_factory=dict)
    rows: tuple[tuple[float | None, ...] | None, ...] = ()
    parent: Leaf | None = None
    free: Any = None


WHOLE = Tree(
    root=Leaf(name="r", others={"colour": "red", "deep": {"a": [1]}}),
    state=DropState.ACCEPTED,
    kind="elm",
    height=2.5,
    leaves=(Leaf(name="a"), Leaf(name="b", size=4)),
    named={"x": Leaf(name="c")},
    rows=((1.0, None), None),
    parent=Leaf(name="p"),
    free=[{"any": "thing"}],
)


def test_what_is_written_is_read_again():
    assert read(Tree, json.loads(json.dumps(as_json(WHOLE)))) == WHOLE


def test_what_a_record_does_not_name_stands_beside_what_it_names():
    assert as_json(WHOLE)["root"] == {"name": "r", "size": 3, "colour": "red", "deep": {"a": [1]}}


def test_an_optional_field_is_written_only_if_it_holds_something():
    @dataclass(frozen=True, kw_only=True)
    class Told:
        origin: Leaf | None = field(default=None, metadata=OPTIONAL)
        plain: Leaf | None = None

    assert as_json(Told()) == {"plain": None}
    assert as_json(Told(origin=Leaf(name="a")))["origin"]["name"] == "a"
    assert read(Told, {"plain": None}) == Told()


def test_what_a_record_names_is_not_what_stands_beside_it():
    assert as_json(Leaf(name="r", others={"name": "x", "size": 9})) == {"name": "r", "size": 3}


def test_missing_fields_take_their_defaults_and_unknown_ones_are_ignored():
    assert read(Tree, {"root": {"name": "r"}, "height": 1, "bark": "rough"}) == Tree(
        root=Leaf(name="r"), height=1
    )


def test_null_is_the_default_where_a_value_must_be_and_nan_for_a_number_without_one():
    found = read(Tree, {"root": {"name": "r", "size": None}, "height": None, "leaves": None})
    assert (found.root.size, found.leaves) == (3, ())
    assert math.isnan(found.height)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"root": {}}, "root.name is missing"),
        ({"root": "r"}, "root is not an object"),
        ({"root": None}, "root is not an object"),
        ({"root": {"name": 1}}, "root.name is not a text"),
        ({"root": {"name": "r", "size": True}}, "root.size is not a whole number"),
        ({"root": {"name": "r", "size": 1.5}}, "root.size is not a whole number"),
        ({"state": "eaten"}, "state is 'eaten', not one of processing, accepted, duplicate, failed"),
        ({"kind": "ash"}, "kind is 'ash', not one of oak, elm"),
        ({"height": "tall"}, "height is not a number"),
        ({"leaves": {}}, "leaves is not a list"),
        ({"leaves": [{"name": "a"}, {}]}, r"leaves\[1\].name is missing"),
        ({"named": []}, "named is not an object"),
        ({"named": {"x": 1}}, "named.x is not an object"),
        ({"rows": [[1, "x"]]}, r"rows\[0\]\[1\] is not a number"),
    ],
)
def test_data_that_make_no_record_are_told_with_their_place(changes, told):
    with pytest.raises(RecordError, match=told):
        read(Tree, {"root": {"name": "r"}, "height": 1} | changes)


@pytest.mark.parametrize("data", [None, [], "text", 1])
def test_what_is_no_object_is_no_record(data):
    with pytest.raises(RecordError, match="it is not an object"):
        read(Status, data)


def test_a_record_grows_by_its_fields():
    @dataclass(frozen=True, slots=True, kw_only=True)
    class Twig(Leaf):
        bent: bool

    assert Twig(**fields_of(Leaf(name="a", others={"b": 1})), bent=True).others == {"b": 1}


class Held:
    def __init__(self, reason):
        self.reason = reason


def test_a_report_that_cannot_be_read_is_an_empty_one():
    old = {"question": "q", "answer": "a", "dataset": "d"}
    assert report_of(Held({"new": 2, "replaced": [old]})) == FileReport(
        new=2, replaced=(ShownExample(**old),)
    )
    assert report_of(Held({"new": "two"})) == FileReport()
