"""Systems: tracks that classify texts one after the other, each with what the others said before it.

What lives here: the chain, and which variant of a member is asked. What never does: models, versions, HTTP; who calls brings
a way to ask a track.
"""

import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from lorad.config import RoleSettings, SystemSettings
from lorad.errors import ProtocolError
from lorad.serving.answers import (
    Classification,
    Classifications,
    SystemAnswer,
    SystemMember,
    SystemResult,
    SystemStep,
)

Classify = Callable[[str, Sequence[str]], Classifications]
"""Asks a track some texts."""
Describe = Callable[[str, str, str], SystemMember]
"""Returns who answers for a role with a track, as a variant of this name."""


@dataclass(frozen=True, slots=True)
class Chain:
    """A system with the track that answers for each of its roles, and a way to end it."""

    name: str
    settings: SystemSettings
    tracks: Mapping[str, tuple[str, str]]
    """Each role's variant and track."""
    cancelled: threading.Event = field(default_factory=threading.Event)

    def run(self, texts: Sequence[str], classify: Classify, describe: Describe) -> SystemAnswer:
        """Ask each member about the texts that came as far as it; raise ``ProtocolError`` for one that cannot be asked."""
        members: list[SystemMember] = []
        steps: list[list[SystemStep]] = [[] for _ in texts]
        going = list(range(len(texts)))
        for role, member in self.settings.roles.items():
            if self.cancelled.is_set():
                raise ProtocolError("the request was cancelled", status=503, code="cancelled")
            variant, track = self.tracks[role]
            told = describe(role, track, variant)
            inputs = {number: _input(member, texts[number], steps[number]) for number in going}
            # a step that names no label may leave the next one nothing to read: the text ends there, like one that leads nowhere
            going = [number for number in going if inputs[number].strip() or not steps[number]]
            if going:
                asked = [inputs[number] for number in going]
                with _numbered(going):
                    said = classify(track, asked)
                told = replace(
                    told, version=said.model.partition("@")[2], system_fingerprint=said.system_fingerprint
                )
                for number, text, each in zip(going, asked, said.classifications, strict=True):
                    steps[number].append(SystemStep(role=role, input=text, classification=each))
                going = [number for number in going if _goes_on(member, steps[number][-1].classification)]
            members.append(told)
        return SystemAnswer(system=self.name, members=tuple(members), results=tuple(map(_result, steps)))


@contextmanager
def _numbered(going: Sequence[int]) -> Iterator[None]:
    """Let an error that names an input of a step name the text of the request."""
    try:
        yield
    except ProtocolError as error:
        found = re.fullmatch(r"inputs\[(\d+)\](.*)", str(error.data.get("param")))
        if not found:
            raise
        told = {**error.data, "param": f"inputs[{going[int(found[1])]}]{found[2]}"}
        raise ProtocolError(error.message, status=error.status, code=error.code, **told) from None


def choose(
    settings: SystemSettings, variant: str | None, is_usable: Callable[[str], bool]
) -> dict[str, tuple[str, str]]:
    """Return for each role the variant and the track that answer.

    A request's ``variant`` holds for the roles that have one of this name. Where memory decides, it is the first, the
    largest, whose track ``is_usable``; the smallest where none is. Raise ``ProtocolError`` on a name that no role has.
    """
    known = {name for role in settings.roles.values() for name in role.variants}
    if variant is not None and variant not in known:
        told = ", ".join(sorted(known)) or "none"
        raise ProtocolError(
            f"the system has no variant {variant!r}; known: {told}",
            status=404,
            code="no_such_variant",
            param="variant",
        )
    return {name: _chosen(role, variant, is_usable) for name, role in settings.roles.items()}


def _chosen(role: RoleSettings, variant: str | None, is_usable: Callable[[str], bool]) -> tuple[str, str]:
    tracks = role.tracks
    wanted = variant if variant in tracks else role.variant
    if wanted in tracks:
        return wanted, tracks[wanted]
    *_, last = tracks.items()
    return next((each for each in tracks.items() if is_usable(each[1])), last)


def _input(member: RoleSettings, text: str, before: Sequence[SystemStep]) -> str:
    """Return what a member is asked; braces in the text itself stay. A step that there was not has said nothing."""
    said = {step.role: ", ".join(step.classification.labels) for step in before} | {"text": text}
    return re.sub(r"\{(\w+)\}", lambda name: said.get(name[1], ""), member.input)


def _goes_on(member: RoleSettings, said: Classification) -> bool:
    """Tell whether a text goes on to the next member: with a label that leads on, or with a path below one."""
    wanted = member.continue_on
    return not wanted or any(
        label == each or label.startswith(f"{each}/") for label in said.labels for each in wanted
    )


def _result(steps: Sequence[SystemStep]) -> SystemResult:
    return SystemResult(label=steps[-1].classification.label, ended_at=steps[-1].role, steps=tuple(steps))
