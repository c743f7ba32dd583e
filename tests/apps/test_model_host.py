"""What the daemon's models tell: how the version that serves is held, and why not as a merged copy."""

import contextlib
from types import SimpleNamespace

import plain_text
import pytest
from structlog.testing import capture_logs

from lorad.apps.daemon.model_host import ModelHost
from lorad.config import Settings
from lorad.errors import TrainingError
from lorad.serving.backends.interface import Form


class FakeEngine:
    """Has every version in memory, in one form."""

    def __init__(self, form):
        self.form = form
        self.served = []

    def serving(self, _track):
        return self.served[-1][1]

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
        assert host.serve(SimpleNamespace(name="chat"), version) == ""

    told = [event for event in events if event["event"] == "serving"]
    assert engine.served == [("chat", version)]
    assert [(event["version"], event["held_as"], event["added_bytes"]) for event in told] == [
        (version or "base", form.kind, form.added_bytes)
    ]
    assert [event["why"] for event in events if event["event"] == "served_unmerged"] == warned


def test_what_may_be_merged_another_time_is_said_and_then_tried_without_a_word_until_it_is():
    short = Form(kind="adapter", why_not_merged="memory is short", may_pass=True)
    engine = FakeEngine(short)
    host, track = ModelHost(Settings(), {}, engine), SimpleNamespace(name="chat")
    assert host.serve(track, "v0.1") == "memory is short"

    with capture_logs() as events:
        assert host.serve_faster(track) == "memory is short"
        assert events == []
        engine.form = Form(kind="merged", added_bytes=7)
        assert host.serve_faster(track) == ""

    assert [event["held_as"] for event in events] == ["merged"]
    assert engine.served == [("chat", "v0.1")] * 3


def test_a_version_is_made_ready_beside_what_answers():
    engine, asked = FakeEngine(Form(kind="merged", added_bytes=7)), []

    def beside(act):
        asked.append(len(engine.served))
        return act()

    host = ModelHost(Settings(), {}, engine, beside)
    host.serve(SimpleNamespace(name="chat"), "v0.1")

    assert (asked, engine.served) == ([0], [("chat", "v0.1")])


def test_a_model_from_scratch_that_does_not_fit_is_refused_before_it_is_made(tmp_path):
    huge = plain_text.SIZES | {"d_model": 65_536, "d_ff": 262_144, "num_layers": 20}
    track = {"base": "scratch", "architecture": "decoder", "model": huge}
    settings = plain_text.settings(tracks={"words": track})
    registry = SimpleNamespace(latest=None, has_versions=lambda: False)
    words = SimpleNamespace(
        name="words", settings=settings.track("words"), base=tmp_path / "base", registry=registry
    )

    with pytest.raises(TrainingError, match=r"would fit|smaller d_model") as refused:
        ModelHost(settings, {}, FakeEngine(None)).plan(words, plain_text.examples(), {}, 0.0)
    assert refused.value.code == "does_not_fit"
    assert not words.base.exists()
