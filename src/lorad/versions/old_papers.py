"""Papers of versions that an older lorad wrote, read in today's words.

What lives here: one table of the names that have changed since, and reading papers with it. What never does: changing a
file; a version's never are.
"""

from collections.abc import Mapping
from typing import Any

from lorad.config import RENAMED as SETTINGS

STATES = {"sound": "intact", "damaged": "corrupt"}
ENDS = {"ceiling": "max_rounds", "brought from outside": "imported"}

#: Where in the papers which key is another one now; a key after those above it.
_PLAN = {
    "plan.until": "stopping",
    "plan.stopping.max_epochs": "max_rounds",
    "plan.stopping.min_epochs": "min_rounds",
    "plan.mix.refresh": "recalled_share",
}
_SPEC = {
    **_PLAN,
    "settings.judge.max_drop_examples": "max_lost_examples",
    "settings.judge.max_drop_share": "max_lost_share",
    **{f"settings.resolved.{old}": new.rpartition(".")[2] for old, new in SETTINGS.items()},
}


def entry(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return a version's entry in the tracker."""
    return _with(found, "state", STATES)


def evaluation(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of a version's ``evaluation.json``."""
    measured = found.get("evaluation")
    told = {"evaluation": _with(measured, "ended_by", ENDS)} if isinstance(measured, Mapping) else {}
    return {**found, **told}


def metadata(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of a version's ``metadata.json``."""
    told = {**found}
    if isinstance(found.get("order"), Mapping):
        told["order"] = spec(found["order"])
    if isinstance(found.get("training"), Mapping):
        told["training"] = _with(_all_renamed(found["training"], _PLAN), "ended_by", ENDS)
    return told


def spec(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return a session's specification, as ``SessionSpec`` has it."""
    return _all_renamed(found, _SPEC)


def _all_renamed(found: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    told: dict[str, Any] = {**found}
    for path, new in names.items():
        *above, old = path.split(".")
        told = _renamed(told, above, old, new)
    return told


def _renamed(tree: Any, above: list[str], old: str, new: str) -> Any:
    """Return a tree in which the key ``old`` below ``above`` is ``new``, in its place."""
    if not isinstance(tree, Mapping):
        return tree
    if above:
        here, *below = above
        return {
            key: _renamed(value, below, old, new) if key == here else value for key, value in tree.items()
        }
    return {new if key == old else key: value for key, value in tree.items()}


def _with(found: Mapping[str, Any], key: str, words: Mapping[str, str]) -> dict[str, Any]:
    """Return a record in which one field says its value in today's word."""
    value = found.get(key)
    return {**found, key: words[value]} if isinstance(value, str) and value in words else dict(found)
