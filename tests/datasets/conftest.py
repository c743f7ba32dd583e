"""Fixtures: dropping rows as a file, and reading it."""

import json

import pytest

from lorad.config import InboxSettings
from lorad.datasets import reader
from lorad.errors import SampleError


@pytest.fixture
def read(tmp_path):
    """Return a way to read rows, text or bytes as a dropped file of this name."""

    def read(content, name="a.json", **limits):
        if not isinstance(content, str | bytes):
            content = json.dumps(content)
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return reader.read(path, InboxSettings(**limits))

    return read


@pytest.fixture
def refused(read):
    def refused(content, name="a.json", **limits):
        with pytest.raises(SampleError) as caught:
            read(content, name, **limits)
        assert name in caught.value.message
        return caught.value

    return refused
