"""What somebody else's files may make endless or enormous ends in a sentence, in bounded time and memory."""

import sys

import pytest

from lorad.apps.cli import confined
from lorad.errors import ConfigError, RegistryError

ACT = """
import os, sys, time
from lorad.apps.cli import confined
from lorad.errors import RegistryError
def act(tell):
    tell("first")
    {}
confined.answer(act, {})
"""


def run(body, seconds=60.0, memory=2**30):
    command = [sys.executable, "-c", ACT.format(body, memory)]
    return confined.run(command, {"the first stage": 60.0, "the second stage": seconds}, memory)


def test_what_is_done_is_returned():
    assert run("return {'a': [1, 'Ærø']}") == {"a": [1, "Ærø"]}


def test_an_error_of_lorads_own_comes_through():
    with pytest.raises(RegistryError, match="no such thing") as caught:
        run("raise RegistryError('no such thing', code='gone')")

    assert caught.value.code == "gone"


def test_another_error_is_a_sentence():
    with pytest.raises(ConfigError, match="ZeroDivisionError"):
        run("return 1 / 0")


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("while True: pass", "the second stage takes longer than 0 seconds"),
        ("return 'x' * 2**33", "more than 1 GiB of memory"),
        ("os.abort()", "the second stage ended unexpectedly"),
        ("sys.stdout.write('x' * 2**27)", "the second stage ended unexpectedly"),
    ],
)
def test_what_takes_too_much_is_ended(body, told):
    with pytest.raises(ConfigError, match=told) as caught:
        run(body, seconds=0.3 if "while" in body else 60.0)

    assert caught.value.code == "beyond_limits"
