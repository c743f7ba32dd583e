"""A real server on a real socket, with a fake daemon behind it."""

import pytest
from fake_app import FakeDaemon, served


@pytest.fixture(scope="module")
def daemon():
    return FakeDaemon()


@pytest.fixture(scope="module")
def path(tmp_path_factory, daemon):
    with served(daemon, tmp_path_factory.mktemp("home") / "run" / "lorad.sock") as place:
        yield place
