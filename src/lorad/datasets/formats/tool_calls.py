"""Tools. What a conversation may call, and its calls, in; functions and their arguments out.

What lives here: the two as OpenAI and its kin write them, their arguments in any form, and the nulls with which
``datasets`` fills up a column. What never does: turns (``conversations``), whether a template has a place for tools.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from lorad.datasets.containers.file_rows import BadRow
from lorad.datasets.formats import row_values
from lorad.datasets.formats.row_values import Row, is_empty, unpacked

#: A function's description, or its name and arguments.
Function = dict[str, Any]


def functions(row: Row) -> list[Function]:
    """Return the functions that a conversation may call."""
    listed = unpacked(row, "tools")
    if is_empty(listed):
        return []
    if not isinstance(listed, list):
        raise BadRow("tools", "must be a list of functions, in a table its JSON")
    found = [tool.get("function", tool) if isinstance(tool, Mapping) else tool for tool in listed]
    for index, function in enumerate(found):
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise BadRow(f"tools[{index}]", "must be a function with a name")
        row_values.check_json(f"tools[{index}]", function)
    return [_described(function) for function in found]


def _described(value: Any) -> Any:
    """Return a function's description without the nulls that ``datasets`` writes for keys that only others have.

    A null says something in two places: in a list of allowed values, and as the default of what may be null.
    """
    if isinstance(value, list):
        return [_described(each) for each in value]
    if not isinstance(value, Mapping):
        return value
    kept = {"default"} if _may_be_null(value) else set()
    return {key: _described(each) for key, each in value.items() if each is not None or key in kept}


def _may_be_null(schema: Any) -> bool:
    """Tell whether a JSON schema names null as a value."""
    if not isinstance(schema, Mapping):
        return False
    kind = schema.get("type")
    kinds = kind if isinstance(kind, list) else [kind]
    allowed = schema.get("enum")
    return (
        "null" in kinds
        or schema.get("nullable") is True
        or (isinstance(allowed, list) and None in allowed)
        or any(map(_may_be_null, _alternatives(schema)))
    )


def _alternatives(schema: Row) -> list[Any]:
    lists = [schema.get(name) for name in ("anyOf", "oneOf")]
    return [each for listed in lists if isinstance(listed, list) for each in listed]


def arguments(value: Any, where: str = "arguments") -> Function:
    """Return what a function is called with: an object, its JSON, or nothing; raise ``BadRow``.

    OpenAI writes the arguments as JSON, and "" where there are none; templates want them as they are.
    """
    if isinstance(value, str):
        value = row_values.parsed(value, where) if value.strip() else {}
    if value is None:
        value = {}
    if not isinstance(value, Mapping):
        raise BadRow(where, "must be an object, or its JSON")
    return dict(value)


def _without_nulls(value: Any, schema: Any) -> Any:
    """Return arguments without the nulls that nobody wrote: of what the function's own description does not let be null."""
    if isinstance(value, list):
        items = schema.get("items") if isinstance(schema, Mapping) else None
        return [_without_nulls(each, items) for each in value]
    if not isinstance(value, Mapping):
        return value
    properties = schema.get("properties") if isinstance(schema, Mapping) else None
    named = properties if isinstance(properties, Mapping) else {}
    return {
        key: _without_nulls(each, named.get(key))
        for key, each in value.items()
        if each is not None or _may_be_null(named.get(key))
    }


def by_name(functions: Sequence[Function]) -> dict[str, Function]:
    """Return functions by their names; of several with one name the first counts."""
    return {function["name"]: function for function in reversed(functions)}


def read(
    written: Any, where: str, functions: Sequence[Function] | Mapping[str, Function]
) -> tuple[tuple[Function, ...], int]:
    """Return calls as name and arguments, and how many nulls were left out although nothing says what they are."""
    found = row_values.parsed(written, where) if isinstance(written, str) else written
    listed = found if isinstance(found, list) else [found]
    described = functions if isinstance(functions, Mapping) else by_name(functions)
    made = [_call(call, f"{where}[{index}]", described) for index, call in enumerate(listed)]
    return tuple(call for call, _ in made), sum(nulls for _, nulls in made)


def _call(call: Any, where: str, functions: Mapping[str, Function]) -> tuple[Function, int]:
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str) or not function["name"]:
        raise BadRow(where, "must be a call of a function with a name")
    written = function.get("arguments")
    written = function.get("parameters") if written is None else written
    given = arguments(written, f"{where}.arguments")
    described = functions.get(function["name"])
    # what is JSON inside a text was written by whoever made the call, nulls and all
    kept = given if isinstance(written, str) else _without_nulls(given, (described or {}).get("parameters"))
    row_values.check_text(where, function["name"])
    row_values.check_json(where, kept)
    return {"name": function["name"], "arguments": kept}, 0 if described else _nulls(given) - _nulls(kept)


def _nulls(given: Function) -> int:
    return sum(each is None for each in given.values())


def order(messages: Sequence[Any], where: str = "messages") -> list[int]:
    """Return the places of messages with what tools said in the order of the calls that it answers; raise ``BadRow``.

    OpenAI tells by ``tool_call_id`` which call that is, templates by the order alone. Where the calls have no ids, or
    not each its own, the messages stay as they are.
    """
    places: list[int] = []
    at = 0
    while at < len(messages):
        end = at + 1
        while end < len(messages) and _is_result(messages[end]):
            end += 1
        first = at if _is_result(messages[at]) else at + 1
        ids = _call_ids(messages[first - 1]) if first else []
        places += [*range(at, first), *_sorted(messages, range(first, end), ids, where)]
        at = end
    return places


def _is_result(message: Any) -> bool:
    roles = [message.get(key) for key in ("role", "from")] if isinstance(message, Mapping) else []
    return any(isinstance(role, str) and row_values.fold(role) in ("tool", "observation") for role in roles)


def _call_ids(message: Any) -> list[str]:
    """Return the ids of a message's calls; none where one has no id or another's."""
    listed = unpacked(message, "tool_calls") if isinstance(message, Mapping) else None
    listed = listed if isinstance(listed, list) else []
    ids = [each.get("id") if isinstance(each, Mapping) else None for each in listed]
    found = [each for each in ids if isinstance(each, str) and each]
    return found if len(set(found)) == len(ids) else []


def _sorted(messages: Sequence[Any], run: range, ids: Sequence[str], where: str) -> list[int]:
    named = {at: messages[at].get("tool_call_id") for at in run}
    places = {name: place for place, name in enumerate(ids)}
    answered: dict[str, int] = {}
    for at, name in named.items():
        if not ids or not name:
            continue
        if not isinstance(name, str) or name not in places:
            raise BadRow(f"{where}[{at}].tool_call_id", "must be the id of a call in the message before")
        if name in answered:
            raise BadRow(f"{where}[{at}].tool_call_id", "appears twice; a call has one answer")
        answered[name] = at
    if len(answered) < len(named):
        return list(run)
    return sorted(run, key=lambda at: places[named[at]])
