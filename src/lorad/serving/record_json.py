"""Records as JSON and back. Standard library only: ``lorad status`` must feel instant.

What lives here: one way to write a frozen dataclass as JSON data, and one to read it back. What never does: the records
(``answers``), bytes, sockets.

A record may end with one field made by ``rest``: whatever JSON holds beside the named fields. It is written flat,
between the others, so an event's data or a field of a later lorad needs no name here.

A field with the metadata ``OPTIONAL`` is written only if it holds something.
"""

import dataclasses
import functools
import math
import types
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")
Read = Callable[[Any, str], Any]
"""Makes a value of a known type from JSON data; the text says where it stands."""

_REST = "rest"

OPTIONAL = {"optional": True}
"""Metadata of a field that is ``None`` by default, and is left out of the JSON then."""


class RecordError(ValueError):
    """JSON data that does not make the record: a field is missing, or is something else."""


def rest() -> Any:
    """Return the field that holds what a record does not name."""
    return dataclasses.field(default_factory=dict, metadata={_REST: True})


@functools.cache
def optional_of(kind: type) -> frozenset[str]:
    """Return the names of a record's fields that are left out where they hold nothing."""
    return frozenset(field.name for field in dataclasses.fields(kind) if field.metadata.get("optional"))


def rest_of(kind: type) -> str | None:
    """Return the name of a record's field for what it does not name, ``None`` if it has none."""
    return next((field.name for field in dataclasses.fields(kind) if field.metadata.get(_REST)), None)


def as_json(value: Any) -> Any:
    """Return records, and mappings and tuples of records, as plain JSON data; lists are JSON already."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        told = {name: as_json(getattr(value, name)) for name in _names(type(value))}
        left_out = optional_of(type(value))
        named = {name: each for name, each in told.items() if each is not None or name not in left_out}
        other = rest_of(type(value))
        beside = getattr(value, other) if other else {}
        return named | {name: each for name, each in beside.items() if name not in named}
    if isinstance(value, Mapping):
        return {key: as_json(inner) for key, inner in value.items()}
    return [as_json(inner) for inner in value] if isinstance(value, tuple) else value


def fields_of(record: Any) -> dict[str, Any]:
    """Return a record's fields by name, to make a record of more from."""
    return {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}


@functools.cache
def _names(kind: type) -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(kind) if not field.metadata.get(_REST))


def read(kind: type[T], data: Any, place: str = "") -> T:
    """Build a record from JSON data; raise ``RecordError`` with the place of what does not fit.

    A missing field takes its default, and so does ``null`` where a value must be. A number that is ``null`` and has no
    default is NaN: JSON has no other word for it. Fields that are not known are ignored.
    """
    found: T = _reader(kind)(data, place)  # type: ignore[arg-type] # a class is hashable
    return found


@functools.cache
def _reader(hint: Any) -> Read:
    if dataclasses.is_dataclass(hint):
        return _record(hint)  # type: ignore[arg-type] # a type hint that is a dataclass is a class
    if origin := get_origin(hint):
        return _composed(origin, get_args(hint))
    if isinstance(hint, type) and issubclass(hint, Enum):
        return lambda value, place: hint(_known(value, place, tuple(hint)))
    return _plain(hint)


def _composed(origin: Any, inner: tuple[Any, ...]) -> Read:
    if origin in (Union, types.UnionType):
        return _optional(*(each for each in inner if each is not type(None)))
    if origin is Literal:
        return lambda value, place: _known(value, place, inner)
    if origin is tuple:
        return _many(_reader(inner[0]))
    return _mapping(_reader(inner[1]))


def _record(kind: type) -> Read:
    """Return the reader of a dataclass; its fields' readers are made at its first use, for records hold records."""
    other = rest_of(kind)

    @functools.cache
    def readers() -> dict[str, tuple[Read, bool, bool]]:
        hints = get_type_hints(kind)
        named = (field for field in dataclasses.fields(kind) if field.name != other)
        return {
            field.name: (
                _reader(hints[field.name]),
                _has_default(field),
                type(None) in get_args(hints[field.name]),
            )
            for field in named
        }

    def make(data: Any, place: str) -> Any:
        found = _checked(data, place, dict, "an object")
        made: dict[str, Any] = {}
        for name, (reader, has_default, may_be_null) in readers().items():
            if name not in found and not has_default:
                raise RecordError(f"{_below(place, name)} is missing")
            if name in found and (found[name] is not None or may_be_null or not has_default):
                made[name] = reader(found[name], _below(place, name))
        if other:
            made[other] = {name: value for name, value in found.items() if name not in readers()}
        return kind(**made)

    return make


def _has_default(field: "dataclasses.Field[Any]") -> bool:
    return field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING


def _optional(kind: Any) -> Read:
    reader = _reader(kind)
    return lambda value, place: None if value is None else reader(value, place)


def _many(reader: Read) -> Read:
    def make(value: Any, place: str) -> Any:
        items = _checked(value, place, list, "a list")
        return tuple(reader(each, f"{place}[{index}]") for index, each in enumerate(items))

    return make


def _mapping(reader: Read) -> Read:
    def make(value: Any, place: str) -> Any:
        items = _checked(value, place, dict, "an object")
        return {name: reader(each, _below(place, name)) for name, each in items.items()}

    return make


def _plain(hint: Any) -> Read:
    words = {str: "a text", int: "a whole number", bool: "true or false", float: "a number"}
    if hint not in words:
        return lambda value, _: value
    kinds = (int, float) if hint is float else (hint,)

    def check(value: Any, place: str) -> Any:
        if hint is float and value is None:
            return math.nan
        if isinstance(value, bool) and hint is not bool:
            raise RecordError(f"{place} is not {words[hint]}")
        return _checked(value, place, kinds, words[hint])

    return check


def _known(value: Any, place: str, known: tuple[Any, ...]) -> Any:
    if value not in known:
        raise RecordError(f"{place} is {value!r}, not one of {', '.join(map(str, known))}")
    return value


def _checked(value: Any, place: str, kinds: Any, told: str) -> Any:
    if not isinstance(value, kinds):
        raise RecordError(f"{place or 'it'} is not {told}")
    return value


def _below(place: str, name: str) -> str:
    return f"{place}.{name}" if place else name
