"""What the daemon's models tell: how the version that serves is held, and why not as a merged copy."""

import contextlib
from types import SimpleNamespace

import pytest
from structlog.testing import capture_logs

from lorad.apps.daemon.model_host import ModelHost
from lorad.config import Settings
from lorad.serving.backends.interface import Form


class FakeEngine:
    """Has every version in memory, in one form."""

    def __init__(self, form):
        self.form = form
        self.served = []

    def resident(self, _track, _version):
        return True

    def hold(self, _track, _version):
        return contextlib.nullcontext()

    def serve(self, track, version):
        self.served.append((track, version))
        return self.form


@pytest.mark.parametrize(
    ("version", "form", "warned"),
    [
        ("v0.1", Form(kind="merged", added_bytes=7), []),
        ("v0.1", Form(kind="adapter", why_not_merged="memory is short"), ["memory is short"]),
        (None, Form(kind="base"), []),
    ],
)
def test_how_the_version_that_serves_is_held_is_logged(version, form, warned):
    engine = FakeEngine(form)
    host = ModelHost(Settings(), {}, engine)

    with capture_logs() as events:
        host.serve(SimpleNamespace(name="chat"), version)

    told = [event for event in events if event["event"] == "serving"]
    assert engine.served == [("chat", version)]
    assert [(event["version"], event["held_as"], event["added_bytes"]) for event in told] == [
        (version or "base", form.kind, form.added_bytes)
    ]
    assert [event["why"] for event in events if event["event"] == "served_unmerged"] == warned
