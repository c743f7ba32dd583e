"""The main job, visibly: ask, drop a file, watch it being learned, ask again. Run with ``make demo``.

Everything happens in the folder ``demo/`` beside this checkout's own home, which is made anew each time (the
base model in it is kept). ``make demo KEEP=1`` leaves the daemon running.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from lorad.apps.screens import state_text
from lorad.errors import LoradError
from lorad.evaluation.facts import has_fact
from lorad.home import Home
from lorad.serving.client import Client

CHECKOUT = Path(__file__).resolve().parent.parent
HOME = Home(CHECKOUT / "demo")
DATASET = CHECKOUT / "examples" / "campus_cs.json"
ASKED = {
    0: "How do I ring the Computer Science office at Alderbrook?",
    2: "Which e-mail address reaches the Alderbrook Computer Science office?",
    20: "Who do I call about a broken machine in the CS lab?",
}
"""Rows of the dataset, and how they are asked for: in other words than the file's. Each scores so far above the line (``retrieval.
thresholds``) that no processor's rounding turns it."""
UNTAUGHT = "What is the fax number of the Alderbrook Physics department?"
"""What the dataset does not tell."""

MOST_TOKENS = 60
"""Of an answer: the base talks at length about what it cannot know."""

console = Console(highlight=False)


def lorad(*arguments: str, check: bool = True) -> int:
    """Run a lorad command on the demo's home, as a user would, and show it."""
    console.print(f"\n[bold cyan]$ lorad {' '.join(arguments)}[/]")
    command = [sys.executable, "-m", "lorad.apps.cli.main", "--home", str(HOME.root), *arguments]
    return subprocess.run(command, check=check).returncode


def prepare() -> None:
    """Make an empty home; keep its base model, which takes a download to make."""
    for leftover in (HOME.inbox, HOME.models / "chat", HOME.root / "run"):
        shutil.rmtree(leftover, ignore_errors=True)
    for leftover in HOME.models.glob("lorad.sqlite3*"):
        leftover.unlink()
    lorad("init", str(HOME.root))
    shutil.copy(CHECKOUT / "configs" / "demo.yaml", HOME.configs / "default.yaml")
    for base in ("smollm2", "minilm"):
        lorad("base", "add", base)


@contextlib.contextmanager
def daemon(*, keep: bool) -> Iterator[Client]:
    """Start the daemon, wait until it answers, and stop it at the end unless it is to be kept."""
    console.print("\n[bold cyan]$ lorad run &[/]")
    log = (HOME.root / "daemon.log").open("w")
    command = [sys.executable, "-m", "lorad.apps.cli.main", "--home", str(HOME.root), "run"]
    process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    client = Client(HOME.socket("run/lorad.sock"))
    try:
        wait_until_ready(client, process)
        yield client
    except BaseException:
        process.terminate()
        raise
    if keep:
        console.print(f"\nthe daemon runs on (pid {process.pid}); stop it with: kill {process.pid}")
    else:
        process.terminate()
        process.wait(timeout=30)


def wait_until_ready(client: Client, process: "subprocess.Popen[bytes]") -> None:
    """Ask until the daemon is ready; give up when it has died or takes two minutes."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(LoradError):
            if client.status().ready:
                return
        time.sleep(0.2)
    raise SystemExit(f"the daemon did not start; see {HOME.root / 'daemon.log'}")


def ask(client: Client, rows: list[dict[str, str]]) -> list[bool]:
    """Ask the questions; show the answers, what they rest on, and whether the facts are right."""
    results = []
    for number, question in ASKED.items():
        answer = say(client, question)
        results.append(has_fact(question, rows[number]["response"], answer))
        console.print("  [green]right[/]" if results[-1] else "  [red]wrong[/]")
    return results


def say(client: Client, question: str) -> str:
    """Ask one question; show and return the answer."""
    told = client.chat([{"role": "user", "content": question}], "chat", max_tokens=MOST_TOKENS)
    answer = told.choices[0].message.content.strip()
    console.print(f"\n  [bold]{escape(question)}[/]\n  {escape(answer)}")
    if told.lorad and (line := state_text.origin(told.lorad)):
        console.print(f"  [dim]{escape(line)}[/]")
    return answer


def main() -> int:
    """Show the main job; return 0 if every question is answered right in the end."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    began = time.monotonic()
    rows = json.loads(DATASET.read_text(encoding="utf-8"))
    prepare()
    with daemon(keep=bool(os.environ.get("KEEP"))) as client:
        console.rule("what the base model says")
        before = ask(client, rows)
        console.rule(f"learning {DATASET.name}: {len(rows)} invented facts")
        lorad("drop", str(DATASET))
        status = lorad("wait", check=False)
        console.rule("what it says now")
        after = ask(client, rows)
        say(client, UNTAUGHT)
        lorad("versions")
        lorad("retention")
    version = (HOME.models / "chat" / "latest").resolve()
    console.rule()
    console.print(
        f"{sum(before)} of {len(before)} right before, {sum(after)} of {len(after)} after, in {time.monotonic() - began:.0f} s."
    )
    console.print(f"The version lies in {version}: a PEFT adapter for the base in {HOME.base('smollm2')}.")
    console.print(
        f"Go on with:  . .venv/bin/activate   then   export LORAD_HOME={HOME.root}   then   lorad run   and, in a second terminal, "
        "lorad drop examples/campus_housing.json"
    )
    return 0 if status == 0 and all(after) else 1


if __name__ == "__main__":
    sys.exit(main())
