"""Candidates, and those that were refused."""

from versions_on_disk import a_candidate


def test_a_rejected_candidate_is_kept_aside_once(registry):
    # Given a job that was rejected, tried again and rejected again
    first = a_candidate(registry, 5)
    registry.workspace.reject(first.parent, 5)
    second = a_candidate(registry, 5)
    (second / "evaluation.json").write_text("second")

    kept = registry.workspace.reject(second.parent, 5)

    assert kept == registry.rejected / "job-5"
    assert (kept / "candidate" / "evaluation.json").read_text() == "second"
    assert not second.parent.exists()
    assert registry.latest is None
