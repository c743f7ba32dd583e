"""Whether the installed Python and packages are those that lorad was tested with.

What lives here: comparing what is installed with the pins of ``constraints.txt``. What never does: importing any of it.
"""

from collections.abc import Callable, Mapping, Sequence
from importlib import metadata, resources

from lorad.apps.cli.findings import Finding

PYTHON = (3, 11)


def check_python(version: Sequence[int]) -> Finding:
    """Judge Python's version."""
    version_text = ".".join(map(str, version[:3]))
    if tuple(version) < PYTHON:
        needed = ".".join(map(str, PYTHON))
        return Finding(
            "python",
            "fail",
            f"{version_text} is too old",
            f"install Python {needed} or newer, then: make clean && make test",
        )
    return Finding("python", "ok", version_text)


def installed(name: str) -> str | None:
    """Return the installed version of a package without its build (``+cpu``), if it is there."""
    try:
        return metadata.version(name).partition("+")[0]
    except metadata.PackageNotFoundError:
        return None


def needed() -> list[str]:
    """Return the packages that the installed lorad depends on here, without those of its extras and of other systems."""
    try:
        requirements = metadata.requires("lorad") or []
    except metadata.PackageNotFoundError:
        return []
    from packaging.requirements import Requirement  # noqa: PLC0415 - an installed lorad has it, its bare sources may not

    found = map(Requirement, requirements)
    return [each.name for each in found if each.marker is None or each.marker.evaluate({"extra": ""})]


def tested() -> dict[str, str]:
    """Return the packages that lorad needs, each with the version that it was tested with."""
    text = resources.files("lorad").joinpath("constraints.txt").read_text(encoding="utf-8")
    pins = dict(line.split("==") for line in text.splitlines() if "==" in line)
    return {name: pins[name] for name in needed()}


def check_packages() -> list[Finding]:
    """Compare the packages that lorad needs with the versions that it was tested with."""
    pins = tested()
    if not pins:
        return [Finding("packages", "warn", "not compared: lorad itself is not installed", "pip install .")]
    return compare(pins)


def compare(pins: Mapping[str, str], find: Callable[[str], str | None] = installed) -> list[Finding]:
    """Compare installed packages with tested versions: one finding for all that agree, one for each other."""
    found = {name: find(name) for name in pins}
    agreeing = sum(found[name] == version for name, version in pins.items())
    findings = [Finding("packages", "ok", f"{agreeing} of {len(pins)} are the tested versions")]
    for name, version in pins.items():
        remedy = f"pip install '{name}=={version}'"
        if found[name] is None:
            findings.append(Finding(name, "fail", "is not installed", remedy))
        elif found[name] != version:
            findings.append(Finding(name, "warn", f"is {found[name]}, tested with {version}", remedy))
    return findings
