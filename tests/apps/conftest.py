"""Fixtures of the tests of programs."""

import tempfile
from pathlib import Path

import pytest


@pytest.fixture
def home(monkeypatch):
    """A home whose path is short enough for a socket; tests with a home of their own have a fixture of this name."""
    monkeypatch.delenv("LORAD_HOME", raising=False)
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        for name in ("configs", "inbox", "models"):
            (Path(folder) / name).mkdir()
        yield Path(folder).resolve()
