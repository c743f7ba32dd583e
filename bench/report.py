"""What every benchmark shares: where results go, and which machine, commit and command made them."""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

BENCH = Path(__file__).resolve().parent
RESULTS = BENCH / "results"
CACHE = BENCH / "cache"
ARMS = RESULTS / "arms"
"""What each arm has found, and by which commit, when and where."""
QUICKLY = "_quick"
"""How the names of arms end that are run to see whether they work."""


def provenance() -> dict[str, Any]:
    """Return command, commit, date and machine; ``-dirty`` says that something else than results was changed since."""
    commit = _git("describe", "--always")
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", ":/", ":!results")
    return {
        "command": " ".join(["python", *sys.argv]),
        "commit": commit + "-dirty" * bool(changed),
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {_memory_gib()} GiB, {_processor()}, Python {platform.python_version()}",
    }


def _git(*words: str) -> str:
    return subprocess.run(
        ["git", *words], cwd=BENCH, capture_output=True, text=True, check=False
    ).stdout.strip()


def _memory_gib() -> int:
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")),
        "unknown processor",
    )


def save(
    name: str, figures: Mapping[str, Any], notes: Sequence[str] = (), *, tables: Sequence[str] = ()
) -> None:
    """Write ``results/NAME.json`` (flat keys) and ``NAME.md`` made from it."""
    RESULTS.mkdir(exist_ok=True)
    flat = {**figures, **provenance()}
    (RESULTS / f"{name}.json").write_text(json.dumps(flat, indent=2) + "\n", encoding="utf-8")
    lines = [f"# {name}", "", *notes, "", "| figure | value |", "|---|---|"]
    lines += [f"| `{key}` | {value} |" for key, value in flat.items()]
    if (RESULTS / f"{name}.png").exists():
        lines += ["", f"![{name}]({name}.png)"]
    lines += ["", *tables]
    (RESULTS / f"{name}.md").write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")


def pyplot() -> Any:
    """Return matplotlib's pyplot, drawing into files: an extra of lorad, which nothing that is measured needs."""
    import matplotlib as mpl  # noqa: PLC0415

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    return plt


def arm(name: str, command: Sequence[str], *, fresh: bool) -> dict[str, Any]:
    """Run one arm in a process of its own, once: a finished arm is read from the cache, or as it was kept with the results.

    A bench of hours is run in pieces, and the next piece may be on another machine.
    """
    CACHE.mkdir(exist_ok=True)
    path, kept = CACHE / f"{name}.json", ARMS / f"{name}.json"
    if fresh:
        path.unlink(missing_ok=True)
        kept.unlink(missing_ok=True)
    found = _found(name)
    if found is None:
        print(f"running {name} …", flush=True)
        subprocess.run([sys.executable, *command, str(path)], check=True)
        found = dict(json.loads(path.read_text(encoding="utf-8")))
    if not kept.exists() and not name.endswith(QUICKLY):
        ARMS.mkdir(parents=True, exist_ok=True)
        told = {"found": found, "by": provenance()}
        kept.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    return found


def arms(
    file: str,
    known: Sequence[str],
    run: Callable[[str], dict[str, Any]],
    begin_anew: Callable[[Sequence[str]], None] = lambda _: None,
    hurry: Callable[[], None] | None = None,
) -> dict[str, dict[str, Any]]:
    """Run a bench's arms as its command line asks, each in a process of its own; return what those that were asked for found.

    ``run`` does one of those that are ``known``, in its process, which ends here. ``--fresh`` calls ``begin_anew`` first, with
    the names of those that were asked for. With ``hurry`` there is ``--quick``, which calls it in every process.
    """
    bench = Path(file).stem
    parser = argparse.ArgumentParser(description=(sys.modules["__main__"].__doc__ or "").partition("\n")[0])
    parser.add_argument("--fresh", action="store_true", help="begin anew")
    parser.add_argument("--only", nargs="*", choices=known, default=known, help="run these arms alone")
    if hurry:
        parser.add_argument(
            "--quick", action="store_true", help="less of everything, to see whether all works"
        )
    parser.add_argument("--arm", choices=known, help=argparse.SUPPRESS)
    parser.add_argument("out", nargs="?", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    quickly = ["--quick"] if hurry and options.quick else []
    if hurry and quickly:
        hurry()
    if options.arm:
        options.out.write_text(json.dumps(run(options.arm)), encoding="utf-8")
        raise SystemExit
    if options.fresh:
        begin_anew(options.only)
    ending = QUICKLY * len(quickly)
    return {
        name: arm(f"{bench}_{name}{ending}", [file, "--arm", name, *quickly], fresh=options.fresh)
        for name in options.only
    }


def _found(name: str) -> dict[str, Any] | None:
    """Return what an arm has found, from the cache or as kept with the results; ``None`` before it ran."""
    path, kept = CACHE / f"{name}.json", ARMS / f"{name}.json"
    if path.exists():
        return dict(json.loads(path.read_text(encoding="utf-8")))
    return dict(json.loads(kept.read_text(encoding="utf-8"))["found"]) if kept.exists() else None


def finished(file: str, known: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return what those of a bench's arms found that were ever run, from the cache or as kept with the results."""
    told = {name: _found(f"{Path(file).stem}_{name}") for name in known}
    return {name: found for name, found in told.items() if found is not None}


def add_smollm2(home: Path) -> None:
    """Make a home with SmolLM2 as its base model, which is fetched once."""
    add_base(home, "smollm2")


def add_base(home: Path, source: str) -> None:
    """Make a home with one of the bases that lorad knows by name, which is fetched once."""
    for name in ("configs", "inbox", "models"):
        (home / name).mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "lorad.apps.cli.model_commands", "base", "add", source]
    subprocess.run([*command, "--home", str(home)], check=True)
