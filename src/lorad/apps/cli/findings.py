"""What an examination found, and what to do about it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from lorad.errors import describe

Status = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found, and what to do about it."""

    name: str
    status: Status
    detail: str
    remedy: str = ""


def failed(findings: Iterable[Finding], *, strict: bool = False) -> bool:
    """Tell whether something failed; with ``strict`` a warning counts as well."""
    return any(finding.status == "fail" or (strict and finding.status == "warn") for finding in findings)


def broken(name: str, error: Exception, remedy: str, status: Status = "fail") -> Finding:
    """Turn an error into a finding."""
    return Finding(name, status, str(describe(error)["message"]), remedy)


def attempt(name: str, check: Callable[[], Finding], remedy: str, status: Status = "fail") -> Finding:
    """Run a check; whatever it raises becomes the finding."""
    try:
        return check()
    except Exception as error:  # noqa: BLE001 - one broken check must not hide the findings of the others
        return broken(name, error, remedy, status)
