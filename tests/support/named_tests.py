"""The tests that documents name, and the tests that there are."""

import re
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent

Named = tuple[str, str]
"""A test's file, by its name alone, and its function."""

_FUNCTION = re.compile(r"^(?:async )?def (test_\w+)", re.MULTILINE)
_NAMED = re.compile(r"`(?:tests/)?((?:\w+/)*)(test_\w+\.py)(?:::(test_\w+))?`")


def defined() -> set[Named]:
    """Return every test function of the suite."""
    return {
        (path.name, name)
        for path in TESTS.rglob("test_*.py")
        for name in _FUNCTION.findall(path.read_text(encoding="utf-8"))
    }


def named(text: str) -> set[Named]:
    """Return the tests that a document names, as ``test_file.py::test_name`` or with the folder before it."""
    return {(file, name) for _, file, name in _NAMED.findall(text) if name}


def misplaced(text: str) -> set[str]:
    """Return the test files that a document names with a folder in which they are not."""
    return {
        f"{folder}{file}"
        for folder, file, _ in _NAMED.findall(text)
        if folder and not (TESTS / folder / file).is_file()
    }
