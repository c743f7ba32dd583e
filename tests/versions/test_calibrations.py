"""What was measured of a version is kept beside it, and goes with it."""

from contextlib import contextmanager

import pytest
from versions_on_disk import BASE, NOON, a_candidate, promote, prune

from lorad.errors import RegistryError
from lorad.storage import fault_points
from lorad.versions import calibrations
from lorad.versions.manifests import MANIFEST
from lorad.versions.promotion import PromotionRecord


def test_a_calibration_is_described_without_its_rows(registry):
    promote(registry)
    assert registry.describe("v0.1")["calibration"] is None

    registry.keep_calibration("v0.1", {"temperature": 1.3, "rows": [1, 2]})

    described = registry.describe("v0.1")["calibration"]
    assert described["temperature"] == 1.3
    assert "rows" not in described


def test_a_calibration_that_cannot_be_read_is_no_reason_to_describe_nothing(registry):
    promote(registry)
    (registry.folder / "calibration").mkdir()
    (registry.folder / "calibration" / "v0.1.json").write_text("{")

    assert registry.describe("v0.1")["calibration"] is None
    with pytest.raises(RegistryError, match=r"lorad calibrate v0\.1 --force"):
        registry.calibration("v0.1")


def test_a_calibration_of_another_version_of_that_name_does_not_count(registry):
    promote(registry)
    registry.keep_calibration("v0.1", {"temperature": 1.3})
    manifest = registry.path("v0.1") / MANIFEST

    manifest.write_text(manifest.read_text().replace('"job": 1', '"job": 2'))

    assert registry.calibration("v0.1") is None


def test_what_is_gone_has_no_calibration_to_keep(registry):
    with pytest.raises(RegistryError, match=r"no version v0\.1"):
        registry.keep_calibration("v0.1", {"temperature": 1.3})


def test_a_pruned_version_takes_its_calibration_along(registry):
    for _ in range(3):
        registry.keep_calibration(promote(registry), {"temperature": 1.0})

    prune(registry, keep=2)

    left = sorted(path.name for path in (registry.folder / "calibration").iterdir())
    assert left == ["v0.2.json", "v0.3.json"]


def test_a_calibration_that_a_crash_left_behind_goes_at_the_next_start(registry):
    # Given a prune that was cut short between the tracker and the folders
    class Crash(BaseException):
        pass

    @contextmanager
    def crash_before_removals(name, place):
        del place
        if name in {"unlink", "rmdir"}:
            raise Crash
        yield

    for _ in range(3):
        registry.keep_calibration(promote(registry), {"temperature": 1.0})
    with pytest.raises(Crash), fault_points.guarded(crash_before_removals):
        prune(registry, keep=2)

    registry.recover()

    left = sorted(path.name for path in (registry.folder / "calibration").iterdir())
    assert left == ["v0.2.json", "v0.3.json"]


def test_what_a_session_measured_counts_until_it_is_measured_anew(registry):
    # Given a version with a calibration among its own files
    candidate = a_candidate(registry, 1)
    (candidate / calibrations.OWN).write_text('{"version": "", "temperature": 1.0, "rows": []}')
    birth = PromotionRecord(job=1, parent=None, base=BASE, description="learned d1")
    registry.promote(candidate, birth, NOON)

    assert registry.calibration("v0.1") == {"version": "v0.1", "temperature": 1.0, "rows": []}
    assert registry.is_calibration_its_own("v0.1")
    registry.keep_calibration("v0.1", {"temperature": 1.3})

    assert registry.calibration("v0.1")["temperature"] == 1.3
    assert not registry.is_calibration_its_own("v0.1")


def test_versions_behind_one_that_were_found_corrupt_are_named(registry):
    promote(registry, 3)
    for version in ("v0.1", "v0.3"):
        registry.mark_corrupt(version)

    assert registry.corrupt_since("v0.2") == ["v0.3"]
    assert registry.corrupt_since("base") == ["v0.1", "v0.3"]
