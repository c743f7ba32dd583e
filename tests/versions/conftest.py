"""A track without versions, in memory: every step is an fsync."""

import tempfile
from pathlib import Path

import pytest
from versions_on_disk import RAM

from lorad.versions.store import Registry


@pytest.fixture
def registry():
    with tempfile.TemporaryDirectory(dir=RAM) as folder:
        yield Registry(Path(folder) / "chat")
