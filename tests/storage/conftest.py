"""Fixtures of the tests of storage."""

import pytest

from lorad.storage.database import Database
from lorad.storage.memory import Memory


@pytest.fixture
def database():
    made = Database(":memory:")
    yield made
    made.close()


@pytest.fixture
def memory(database):
    return Memory(database, "chat")
