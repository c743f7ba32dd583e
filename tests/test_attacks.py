"""The table of attacks (issue 15) and SECURITY.md, held against the tests that they name."""

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
SECURITY = TESTS.parent / "SECURITY.md"
DEFINED = {
    (path.name, name)
    for path in TESTS.rglob("test_*.py")
    for name in re.findall(r"^(?:async )?def (test_\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
}


@pytest.mark.parametrize("row", range(1, 23))
def test_every_row_of_the_table_has_a_test(row):
    assert [name for _, name in DEFINED if re.match(rf"test_(a\d+_)*a{row}_", name)]


def test_every_test_that_the_security_table_names_is_there():
    named = set(re.findall(r"`(test_\w+\.py)::(test_\w+)`", SECURITY.read_text(encoding="utf-8")))

    assert len(named) > 20
    assert not named - DEFINED


def test_no_line_of_the_security_table_lacks_its_test():
    lines = [
        line
        for line in SECURITY.read_text(encoding="utf-8").splitlines()
        if line.startswith("| ") and not line.startswith("| who")
    ]

    assert lines
    assert [line for line in lines if "::test_" not in line] == []
