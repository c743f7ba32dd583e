"""``lorad.client`` as its page says, against a fake daemon: each example of the page is run."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from fake_app import FakeDaemon, served

from lorad.client import AsyncClient, Client, ConfigError, connect, connect_async
from lorad.storage import files

PAGE = (Path(__file__).parent.parent / "docs" / "client.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture
def home(tmp_path):
    """A home whose daemon is a fake."""
    (tmp_path / "models").mkdir()
    (tmp_path / "configs").mkdir()
    with served(FakeDaemon(), tmp_path / "run" / "lorad.sock") as place:
        files.write_json(tmp_path / "models" / ".daemon.json", {"socket": str(place), "pid": 1})
        yield tmp_path


@pytest.mark.parametrize("example", EXAMPLES, ids=range(len(EXAMPLES)))
def test_every_example_of_the_page_runs(home, example, capsys):
    program = example.replace("/var/lib/lorad", str(home))

    exec(compile(program, "client.md", "exec"), {})  # noqa: S102 - our own page

    assert capsys.readouterr().out.strip()


def test_the_page_has_examples():
    assert len(EXAMPLES) >= 3


def test_a_home_is_found_as_the_commands_find_it(home, monkeypatch):
    monkeypatch.setenv("LORAD_HOME", str(home))

    assert connect().models() == connect(home).models()
    assert isinstance(connect(), Client)
    assert isinstance(connect_async(str(home)), AsyncClient)


def test_a_home_whose_daemon_does_not_run_is_told_by_the_socket_of_its_settings(tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "default.yaml").write_text("server: {socket: elsewhere.sock}")

    with pytest.raises(ConfigError, match=r"elsewhere\.sock"):
        connect(tmp_path).models()


def test_it_loads_no_models(tmp_path):
    program = (
        "import sys, lorad.client; sys.exit(bool({'torch', 'transformers', 'fastapi'} & {*sys.modules}))"
    )

    assert subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=False).returncode == 0
