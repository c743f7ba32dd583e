"""How much memory is left where a container or a service has less than the machine."""

import pytest

from lorad.models import memory_limits


@pytest.fixture
def groups(tmp_path):
    """Make control groups, given as path, limit, use and unused files, and put this process into the last one."""

    def make(*given):
        for path, limit, used, unused in given:
            folder = tmp_path / "cgroup" / path
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "memory.max").write_text(f"{limit}\n")
            (folder / "memory.current").write_text(f"{used}\n")
            (folder / "memory.stat").write_text(f"anon 5\ninactive_file {unused}\nactive_file 7\n")
        (tmp_path / "self").write_text(f"1:name=systemd:/old\n0::/{given[-1][0]}\n")
        return tmp_path / "self", tmp_path / "cgroup"

    return make


def test_what_is_left_is_told_by_the_tightest_limit_above(groups):
    places = groups(("", "max", 0, 0), ("system", 1000, 700, 100), ("system/lorad", 5000, 600, 0))

    assert memory_limits.free_bytes(*places) == 400


def test_a_container_sees_its_own_group_as_the_root(groups):
    assert memory_limits.free_bytes(*groups(("", 1000, 1200, 0))) == 0


def test_without_a_limit_the_machine_decides(groups):
    assert memory_limits.free_bytes(*groups(("", "max", 0, 0), ("lorad", "max", 600, 0))) is None


@pytest.mark.parametrize("membership", ["", "4:memory:/lorad\n", "0::/../other\n", "0::/gone\n"])
def test_where_nothing_tells_of_a_limit_there_is_none(tmp_path, membership):
    (tmp_path / "self").write_text(membership)

    assert memory_limits.free_bytes(tmp_path / "self", tmp_path) is None


def test_another_system_has_no_such_limits(tmp_path):
    assert memory_limits.free_bytes(tmp_path / "none", tmp_path / "none") is None
