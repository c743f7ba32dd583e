"""What ``lorad doctor`` says of a machine and a home: pure judgements, then the command on a real folder."""

import json
import os
import plistlib
import re
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest
import tiny
import torch
from typer.testing import CliRunner

from lorad.apps.cli import doctor, packages
from lorad.apps.cli.findings import Finding, attempt, failed
from lorad.apps.cli.model_commands import main
from lorad.errors import ConfigError, RegistryError
from lorad.home import SOCKET_PATH_LIMIT, Home
from lorad.models import bases
from lorad.records import Machine, ModelShape, Trial
from lorad.serving.backends.llamacpp import binding
from lorad.storage import files
from lorad.training import executors
from lorad.versions.promotion import PromotionRecord
from lorad.versions.store import Registry

ROOT = Path(__file__).parents[2]
GB = 1_000_000_000


def a_machine(memory=16 * GB, *, fast_bfloat16=True):
    return Machine(device="cpu", name="cpu (x)", memory_bytes=memory, threads=2, fast_bfloat16=fast_bfloat16)


def statuses(findings):
    return [finding.status for finding in findings]


# The verdict


def test_only_failures_fail_unless_strict():
    fine, warning, failure = (Finding("a", status, "told") for status in ("ok", "warn", "fail"))
    assert not failed([fine, warning])
    assert failed([fine, warning], strict=True)
    assert failed([fine, failure])
    assert not failed([fine], strict=True)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (RegistryError("v0.1 is damaged"), "v0.1 is damaged"),
        (ZeroDivisionError("oh"), "ZeroDivisionError: oh"),
    ],
)
def test_what_a_check_raises_is_its_finding(error, told):
    # Given a check that fails
    def check():
        raise error

    # Then that is what was found
    assert attempt("x", check, "mend it") == Finding("x", "fail", told, "mend it")
    assert attempt("x", check, "mend it", "warn").status == "warn"


# What is installed


def test_every_dependency_is_compared_with_what_is_pinned():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))

    names = [needed.partition(">=")[0] for needed in project["dependencies"]]
    assert packages.tested() == {name: pins[name] for name in names}
    assert project["requires-python"] == ">=" + ".".join(map(str, packages.PYTHON))


def test_without_an_installed_lorad_nothing_is_compared(tmp_path):
    # Given lorad run from its sources alone, where only the standard library is beside it, and no record of an install
    (tmp_path / "lorad").symlink_to(ROOT / "src" / "lorad")
    result = subprocess.run(
        [sys.executable, "-S", "-c", "from lorad.apps.cli import packages; print(packages.check_packages())"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    # Then that is told, and not that all is well
    assert "status='warn'" in result.stdout
    assert "not compared" in result.stdout


@pytest.mark.parametrize(
    ("version", "status"),
    [((3, 10, 14), "fail"), ((3, 11, 0), "ok"), ((3, 14, 1), "ok")],
)
def test_python(version, status):
    assert packages.check_python(version).status == status


def test_packages_that_are_missing_or_others_are_named():
    # Given one package as tested, one newer, one missing
    tested = {"a": "1.0", "b": "2.0", "c": "3.0"}
    found = packages.compare(tested, {"a": "1.0", "b": "2.1"}.get)
    # Then the good ones are counted and the others told with what to type
    assert found == [
        Finding("packages", "ok", "1 of 3 are the tested versions"),
        Finding("b", "warn", "is 2.1, tested with 2.0", "pip install 'b==2.0'"),
        Finding("c", "fail", "is not installed", "pip install 'c==3.0'"),
    ]


def test_a_build_is_no_other_version(tmp_path, monkeypatch):
    # Given a package as a CPU build of torch calls itself
    folder = tmp_path / "lorad_probe-2.13.0+cpu.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: lorad-probe\nVersion: 2.13.0+cpu\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert packages.installed("lorad-probe") == "2.13.0"
    assert packages.installed("lorad-no-such-package") is None


# What computes


@pytest.mark.parametrize(("memory", "status"), [(8 * GB, "ok"), (8 * GB - 1, "warn")])
def test_two_copies_of_the_base_must_fit(memory, status):
    assert doctor.device(a_machine(memory), 8 * GB).status == status


def test_a_card_that_torch_does_not_see_is_told():
    found = doctor.device(a_machine(), 0, unused_card=True)
    assert (found.status, found.detail.count("NVIDIA")) == ("warn", 1)
    assert found.remedy


@pytest.mark.parametrize(
    ("fast", "dtype", "status"),
    [(True, "bfloat16", "ok"), (False, "auto", "ok"), (False, "float32", "ok"), (False, "bfloat16", "warn")],
)
def test_bfloat16_is_a_warning_only_where_it_is_forced(fast, dtype, status):
    assert doctor.bfloat16(a_machine(fast_bfloat16=fast), dtype).status == status


def test_a_card_is_computed_on():
    def without_kernels():
        raise RuntimeError("no kernel image is available")

    libraries = {"cuda": "12.6", "cudnn": "90100"}
    told = doctor.card(0, "H200", (9, 0), libraries, int).detail
    assert told == "H200, compute capability 9.0, cuda 12.6, cudnn 90100"
    with pytest.raises(RuntimeError, match="no kernel"):
        doctor.card(0, "K80", (3, 7), libraries, without_kernels)


@pytest.mark.parametrize(
    ("round_trip", "status"),
    [(None, "ok"), (lambda: 0.152, "ok"), (lambda: 0.9, "warn"), (lambda: float("nan"), "warn")],
)
def test_four_bit_is_tried(round_trip, status):
    assert doctor.four_bit(round_trip).status == status


# The home


@pytest.fixture
def home(tmp_path):
    for name in ("configs", "inbox/done", "models/chat/versions"):
        (tmp_path / name).mkdir(parents=True)
    for path in (tmp_path, *tmp_path.rglob("*")):
        path.chmod(0o750)
    return Home(tmp_path)


@pytest.mark.parametrize(
    ("layers", "hidden", "grouped", "wide"),
    [
        (30, 576, 192, 1536),  # SmolLM2 135M
        (32, 4096, 4096, 11008),  # Llama 2 7B
        (24, 896, 128, 4864),  # Qwen2 0.5B
        (18, 2048, 256, 16384),  # Gemma 2B
    ],
)
def test_an_adapter_is_never_larger_than_estimated(layers, hidden, grouped, wide):
    # Given the matrices of a decoder layer: q and o, k and v, the MLP's three
    inputs_and_outputs = 2 * (hidden + hidden) + 2 * (hidden + grouped) + 3 * (hidden + wide)
    # When an adapter of rank 64 lies on each, as float32
    real = 4 * 64 * layers * inputs_and_outputs
    shape = ModelShape(name="x", parameters=0, layers=layers, hidden=hidden, vocabulary=0)
    # Then the estimate is above, and not absurdly
    assert real <= doctor.adapter_bytes(shape, 64) < 2 * real


def test_disk_for_a_session_and_for_the_versions():
    # Given adapters of 1 GB of which 10 are kept
    one, ten = GB + doctor.SESSION_BYTES, 10 * GB + doctor.SESSION_BYTES
    found = [doctor.disk(free, GB, 10) for free in (one - 1, one, ten - 1, ten)]
    assert statuses(found) == ["fail", "warn", "warn", "ok"]
    assert all(finding.remedy for finding in found[:3])


def test_folders_that_are_fine_are_one_line(home):
    found = doctor.folders(home, home.socket("run/lorad.sock"))
    assert found == [Finding("folders", "ok", "all 7 are writable and private")]


def test_a_missing_folder_fails(home):
    home.configs.rmdir()
    found = doctor.folders(home, home.socket("run/lorad.sock"))
    assert found == [
        Finding("folder", "fail", f"{home.configs} is missing", f"lorad init {home.root}"),
    ]


def test_a_folder_that_everybody_can_change_is_a_warning_at_any_depth(home):
    # Given two such folders: deep in the home, and the socket's, outside of it
    inside, outside = home.models / "chat" / "versions", home.root.parent / f"{home.root.name}-run"
    outside.mkdir()
    for folder in (inside, outside):
        folder.chmod(0o777)
    # Then both are told, with what to type
    found = doctor.folders(home, outside / "lorad.sock")
    assert statuses(found) == ["warn", "warn"]
    assert [finding.remedy for finding in found] == [f"chmod o-w {inside}", f"chmod o-w {outside}"]


def test_a_folder_that_is_not_ours_fails(home):
    # Given a user who may not write into the inbox (root may write everywhere, so it is said, not done)
    found = doctor.folders(home, home.socket("run/lorad.sock"), lambda path: path != home.inbox)
    assert [(f.status, f.detail) for f in found] == [("fail", f"{home.inbox} is not writable for this user")]


@pytest.mark.parametrize(("name", "extra", "status"), [("a", 0, "ok"), ("a", 1, "fail"), ("é", 0, "fail")])
def test_the_length_of_the_socket_path(name, extra, status):
    # Given a path that fills the limit, counted in letters; the system counts bytes
    path = Path("/" + name * (SOCKET_PATH_LIMIT - 1 + extra))
    assert attempt("socket", lambda: doctor.socket_path(path), "").status == status


# The system


def limits(folder, **changed):
    for name, limit in (doctor.INOTIFY | changed).items():
        (folder / name).write_text(f"{limit}\n")
    return folder


def test_inotify_limits(tmp_path):
    assert statuses(doctor.inotify(limits(tmp_path))) == ["ok"]
    (low,) = doctor.inotify(limits(tmp_path, max_user_watches=8191))
    assert (low.status, low.remedy) == ("warn", "sudo sysctl fs.inotify.max_user_watches=8192")
    assert "scans the inbox every second" in low.detail


def test_without_inotify_there_is_nothing_to_say(tmp_path):
    assert doctor.inotify(tmp_path / "none") == []


def systemd(**active):
    """Answer as systemctl does; a manager that is not named here cannot be reached."""

    def ask(command):
        manager = "user" if "--user" in command else "system"
        return active.get(manager)

    return ask


@pytest.mark.parametrize(
    ("ask", "expected"),
    [
        (systemd(), [("ok", "")]),
        (systemd(system="LoadState=not-found\nActiveState=inactive\n"), [("ok", "")]),
        (systemd(system="LoadState=loaded\nActiveState=active\n"), [("ok", "")]),
        (systemd(system="LoadState=loaded\nActiveState=inactive\n"), [("warn", "systemctl start lorad")]),
        (
            systemd(
                user="LoadState=loaded\nActiveState=failed\n", system="LoadState=loaded\nActiveState=active\n"
            ),
            [
                ("ok", ""),
                (
                    "fail",
                    "journalctl --user -u lorad -n 50; then: systemctl --user reset-failed lorad && systemctl --user start lorad",
                ),
            ],
        ),
    ],
)
def test_the_systemd_unit(ask, expected):
    assert [(finding.status, finding.remedy) for finding in doctor.service("Linux", ask)] == expected


def test_a_unit_that_never_starts_is_given_up_even_where_a_try_takes_a_minute():
    unit = dict(re.findall(r"^(\w+)=(\d+)$", (ROOT / "daemon" / "lorad.service").read_text(), re.MULTILINE))
    tries, rest = int(unit["StartLimitBurst"]), int(unit["RestartSec"])

    assert tries * (60 + rest) < int(unit["StartLimitIntervalSec"])


def test_the_launchd_agent_is_not_put_behind_what_people_do():
    agent = plistlib.loads((ROOT / "daemon" / f"{doctor.AGENT}.plist").read_bytes())

    assert (agent["Label"], agent["ProcessType"]) == (doctor.AGENT, "Interactive")


@pytest.mark.parametrize(
    ("answer", "status"), [(None, "ok"), ('{ "PID" = 12; };', "ok"), ('{ "LastExitStatus" = 1; };', "warn")]
)
def test_the_launchd_agent(answer, status):
    asked = []
    found = doctor.service("Darwin", lambda command: asked.append(command) or answer)
    assert statuses(found) == [status]
    assert asked == [["launchctl", "list", "org.lorad.daemon"]]
    assert ("not installed" in found[0].detail) == (answer is None)


def test_commands_that_are_missing_or_fail_answer_nothing():
    assert doctor.run([sys.executable, "-c", "print('told')"]) == "told\n"
    assert doctor.run([sys.executable, "-c", "print('told'); raise SystemExit(4)"]) is None
    assert doctor.run(["/no/such/systemctl"]) is None


# The command


@pytest.fixture
def living(home):
    """Return a home with a base model and a version, whose files are only as real as hashing needs."""
    base = home.base("smollm2")
    base.mkdir(parents=True)
    (base / "config.json").write_text('{"num_hidden_layers": 2, "hidden_size": 64}')
    tiny.tokenizer().save_pretrained(base)
    files.write_json(base / bases.FINGERPRINT, bases.measure_fingerprint(base))
    registry = Registry(home.track("chat"))
    candidate = registry.candidates / "job-1"
    candidate.mkdir(parents=True)
    (candidate / "adapter_model.safetensors").write_bytes(b"weights")
    birth = PromotionRecord(job=1, parent=None, base=bases.read_fingerprint(base), description="learned")
    registry.promote(candidate, birth, 0.0)
    return home


@pytest.fixture
def examine():
    def run(home, *words):
        result = CliRunner().invoke(main.app, ["doctor", "--home", str(home.root), "--json", *words])
        assert result.exit_code in {0, 1}, result.output
        return {row["name"]: row for row in json.loads(result.stdout)}, result.exit_code

    return run


def test_a_sound_home_passes(living, examine):
    found, code = examine(living)
    assert code == 0, found
    assert {found[name]["status"] for name in ("base smollm2", "chat v0.1", "settings", "folders")} == {"ok"}
    assert set(found["home"]) == {"name", "status", "detail", "remedy"}
    assert found["backend"]["detail"].startswith(
        "builtin (engine.backend is auto); what serves is a merged copy"
    )


@pytest.mark.parametrize(
    ("setting", "status", "words"),
    [
        ("vllm_url=http://127.0.0.1:8000", "ok", "http://127.0.0.1:8000"),
        ("vllm_command=no-such-program serve", "fail", "there is no program no-such-program"),
        ("vllm_command=sh serve", "ok", "lorad starts: sh serve"),
    ],
)
def test_a_backend_that_is_not_to_be_had_is_named_with_its_remedy(living, examine, setting, status, words):
    found, _ = examine(living, "--set", "engine.backend=vllm", "--set", f"engine.{setting}")
    assert found["backend"]["status"] == status
    assert words in found["backend"]["detail"]


@pytest.mark.parametrize(
    ("settings", "status", "words"),
    [
        ({}, "ok", "local: a session is one process"),
        ({"executor": "torchrun", "processes": 2}, "ok", "torchrun: a session is 2 processes"),
        ({"executor": "ray"}, "fail", "pip install 'lorad[ray]'"),
    ],
)
def test_an_executor_that_is_not_to_be_had_is_named_with_its_remedy(
    living, examine, monkeypatch, settings, status, words
):
    monkeypatch.setattr(executors, "has_ray", lambda: False)
    told = {"device": "cpu", **settings}
    found, _ = examine(living, *(f"--set=training.{name}={value}" for name, value in told.items()))
    assert found["executor"]["status"] == status
    assert words in found["executor"]["detail"]


def test_llamacpp_is_asked_for_its_version(living, examine, monkeypatch):
    def missing():
        raise ConfigError(
            "engine.backend is llamacpp, which needs the package llama-cpp-python", code="no_backend"
        )

    for version, status, words in (
        (lambda: "0.3.36", "ok", "0.3.36"),
        (missing, "fail", "needs the package"),
    ):
        monkeypatch.setattr(binding, "version", version)
        found, _ = examine(living, "--set", "engine.backend=llamacpp")
        assert (found["backend"]["status"], words in found["backend"]["detail"]) == (status, True)


def opened(home):
    """Open a home to others, as an older lorad left one."""
    for path in (home.root, *home.root.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    home.database.touch(mode=0o644)
    return home


def test_a15_an_open_home_is_a_warning_with_the_command_that_mends_it(home):
    found = doctor.private(opened(home), home.socket("run/lorad.sock"))

    assert statuses(found) == ["warn", "warn"]
    assert found[0].detail.startswith(f"others can read {home.root} (mode 0755) and ")
    assert found[1].detail == f"the group can read {home.database} (mode 0644)"
    assert {finding.remedy for finding in found} == {f"lorad doctor --home {home.root} --fix"}


def test_a15_a_group_that_may_change_what_only_the_daemon_should_is_a_warning(home):
    home.models.chmod(0o770)
    home.inbox.chmod(0o2770)
    (found,) = doctor.private(home, home.socket("run/lorad.sock"))
    assert found.detail == f"the group can change {home.models} (mode 0770)"


def test_a15_a_home_that_anybody_can_replace_is_a_warning(home):
    inner = Home(home.inbox)  # whatever it is: it lies in a folder of the test's own
    home.root.chmod(0o777)
    found = doctor.private(inner, inner.socket("run/lorad.sock"))
    assert f"chmod +t {home.root}, or move the home" in {finding.remedy for finding in found}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a15_what_another_user_owns_is_a_warning(home):
    os.chown(home.models / "chat", 12345, -1)
    (found,) = doctor.private(home, home.socket("run/lorad.sock"))
    assert found.detail.startswith(f"12345, and not root, owns {home.models / 'chat'}")
    assert found.remedy == f"sudo chown -h root {home.models / 'chat'}"


def test_a15_fix_closes_an_open_home_and_says_what_it_did(living, examine):
    opened(living)
    found, _ = examine(living)
    assert found["privacy"]["status"] == "warn"

    found, _ = examine(living, "--fix")

    assert found["privacy"] == {
        "name": "privacy",
        "status": "ok",
        "detail": "others can read and change nothing",
        "remedy": "",
    }
    assert found["fixed"]["status"] == "ok"
    assert re.fullmatch(r"chmod 0\d{3} /.* \(was 0\d{3}\)", found["fixed"]["detail"])
    assert "fixed" not in examine(living, "--fix")[0]


def test_strict_minds_warnings(living, examine):
    living.inbox.chmod(0o777)
    found, code = examine(living)
    assert (found["folder"]["status"], code) == ("warn", 0)
    assert examine(living, "--strict")[1] == 1


def test_a_version_with_a_changed_byte_fails(living, examine):
    adapter = living.track("chat") / "versions" / "v0.1" / "adapter_model.safetensors"
    adapter.write_bytes(b"Weights")
    found, code = examine(living)
    assert (found["chat v0.1"]["status"], code) == ("fail", 1)
    assert "consolidate --refit --track chat" in found["chat v0.1"]["remedy"]


def test_a_damaged_tracker_fails(living, examine):
    (living.track("chat") / "checkpoint_tracker.json").write_text("{")
    found, code = examine(living)
    assert (found["track chat"]["status"], code) == ("fail", 1)


def test_a_changed_base_fails(living, examine):
    (living.base("smollm2") / "config.json").write_text('{"num_hidden_layers": 2, "hidden_size": 65}')
    found, code = examine(living)
    assert (found["base smollm2"]["status"], code) == ("fail", 1)
    assert found["base smollm2"]["remedy"] == "lorad base add smollm2"
    assert found["chat v0.1"]["status"] == "ok"  # the version itself is whole


def test_a_version_of_another_base_fails(living, examine):
    # Given a base that was replaced, properly
    base = living.base("smollm2")
    (base / "config.json").write_text('{"num_hidden_layers": 3}')
    files.write_json(base / bases.FINGERPRINT, bases.measure_fingerprint(base))
    # Then it is the version that does not fit
    found, code = examine(living)
    assert (found["base smollm2"]["status"], found["chat v0.1"]["status"], code) == ("ok", "fail", 1)
    assert "made for another base" in found["chat v0.1"]["detail"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is what must be missing here")
def test_a_device_that_is_set_and_missing_fails(living, examine):
    found, code = examine(living, "--set", "training.device=cuda", "--set", "engine.device=cuda")
    assert (found["device"]["status"], code) == ("fail", 1)
    assert found["chat v0.1"]["status"] == "ok"


def test_a_base_of_another_track_must_be_there(living, examine):
    found, code = examine(living, "--set", "tracks.law.base=big")
    assert (found["base big"]["detail"], code) == ("is missing", 1)
    assert found["base big"]["remedy"] == "lorad base add SOURCE --name big"


def test_broken_settings_are_a_finding_and_the_rest_is_looked_at(living, examine):
    (living.configs / "default.yaml").write_text("inbox: {settle: 1}")
    found, code = examine(living)
    assert (found["settings"]["status"], code) == ("fail", 1)
    assert "did you mean settle_seconds" in found["settings"]["detail"]
    assert found["chat v0.1"]["status"] == "ok"


def test_a_missing_home_is_a_finding(tmp_path, examine):
    found, code = examine(Home(tmp_path / "none"))
    assert (found["home"]["status"], code) == ("fail", 1)
    assert found["device"]["status"] in {"ok", "warn"}


def test_people_read_findings_and_remedies(home):
    # Given a home without its base model
    result = CliRunner().invoke(main.app, ["doctor", "--home", str(home.root)])
    # Then the line says so, and the next one what to type
    lines = [line.split() for line in result.stdout.splitlines()]
    at = lines.index(["fail", "base", "smollm2", "is", "missing"])
    assert lines[at + 1] == ["->", "lorad", "base", "add", "smollm2"]


def lorad(program, *words, path=(), flags=()):
    """Run the command line in a process of its own."""
    return subprocess.run(
        [
            sys.executable,
            *flags,
            "-c",
            f"import sys; from lorad.apps.cli.main import main; {program} main()",
            *words,
        ],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), *path])},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )


def test_the_command_line_hands_over_with_its_settings():
    result = lorad("sys.executable = '/bin/echo';", "--home", "/h", "--set", "a=1", "doctor", "--strict")
    assert result.stdout == "-P -m lorad.apps.cli.model_commands doctor --strict --home /h --set a=1\n"


def test_a_missing_torch_is_told_though_nothing_can_be_tried(tmp_path):
    # Given an environment that has everything but torch
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if not path.name.startswith("torch"):
            (tmp_path / path.name).symlink_to(path)
    # When the doctor is called in it
    result = lorad("", "doctor", path=[str(tmp_path)], flags=["-S"])
    # Then it says what to type, in one sentence
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == "lorad: torch is not installed: pip install 'torch==2.13.0'\n"


# the chat template


def trial(name, status):
    return Trial(name=name, status=status, detail=f"the {name}")


@pytest.mark.parametrize(
    ("trials", "status", "told"),
    [
        ([], "ok", "no chat template"),
        ([trial("opening", "ok")], "ok", "passed all"),
        (
            [trial("opening", "worked around"), trial("tools", "unsupported")],
            "ok",
            "opening: the opening; tools",
        ),
        ([trial("markup", "unsupported")], "warn", "the markup"),
        ([trial("date", "unsupported")], "warn", "the date"),
        ([trial("date", "worked around")], "ok", "the date"),
        ([trial("opening", "broken"), trial("markup", "unsupported")], "fail", "the opening"),
    ],
)
def test_a_template_is_judged_by_its_gravest_trial(trials, status, told):
    found = doctor.template("tiny", trials)

    assert (found.name, found.status) == ("template tiny", status)
    assert told in found.detail


@pytest.mark.parametrize(
    ("name", "retrieves", "told"),
    [
        ("minilm", True, "minilm, a base of kind encoder"),
        (None, True, "own base; questions in other words are found better"),
        ("minilm", False, "answering.retrieve is false"),
    ],
)
def test_what_compares_meanings_is_told(name, retrieves, told):
    found = doctor.embedder(name, retrieves=retrieves)

    assert (found.name, found.status) == ("embedder", "ok")
    assert told in found.detail


def test_an_embedder_that_is_set_and_missing_fails(living, examine):
    found, code = examine(living, "--set", "answering.embedder=nowhere")

    assert (found["embedder"]["status"], code) == ("fail", 1)
    assert "lorad base add SOURCE --name nowhere" in found["embedder"]["detail"]
