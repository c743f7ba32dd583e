"""A hundred drops of 25 facts from five public domains, through the real daemon on SmolLM2: what is kept, and what it costs.

    python bench/long.py [--minutes 55] [--drops 100] [--tiny] [--fresh]

Drops go into the inbox one after another, each with held-out wordings beside it; behind every tenth there is a night, in which a
version that has drifted is consolidated, or refitted from the base. When the minutes are used up the daemon is stopped, whatever it
does, and what there is is written, its figures named by the number of drops (``acc40``); run it again to go on: finished drops lie in
``cache/long/``, and a session that was cut off goes on from its checkpoint. ``--drops`` and ``--tiny`` (the tests' model, which learns
nothing of this) are to see whether it works: in a home of their own, and nothing is written.
"""

import argparse
import json
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import attacks_world
import domains
import report
import three_drops
from lorad.evaluation.retention import summarise
from lorad.home import Home
from lorad.serving.client import Client
from lorad.states import OPEN_JOBS
from lorad.storage import files

DROPS, ROWS = 100, 25
SEED = 0
DAY = 10
"""Drops between two nights."""
CYCLE = len(domains.DOMAINS)
LOOKS_SECONDS = 2.0
NIGHT_SECONDS = 15.0
"""Without a job of the night in the queue for so long, none is wanted."""
BY_DAY = ("registry.keep=1000", "training.merge_adapters_on_save=false", "training.consolidate_at=null")
ALL_THE_TIME = ("training.refit_hours=00:00-23:59",)
NEVER = ("training.consolidate_at_drift=null", "training.refit_at_drift=null")
TINY = (
    "tracks.chat.base=tiny",
    "planner.stopping.max_rounds=2",
    "judge.min_recall=0",
    "judge.max_lost_share=1",
    "judge.significance=0",
    "judge.max_perplexity_rise=1000",
    "judge.max_kl=1000",
    "judge.max_degenerate_share=1",
)
NOTES = (
    "All figures are of `drops` drops; a hundred take hours. Aims: acc100 >= 0.97, bwt100 >= -0.01, perplexity_rise100 <= 0.05, cost_ratio100 <= 2, fact_recall_served >= 0.95.",
    "seconds are a session's, from its start to its verdict; cost_ratio100 is the last one's to the first one's, cycle_ratio100 the",
    "last five's to the first five's, so that the same domains stand on both sides as far as there are facts of each. What is done by",
    "night is not in them: night_seconds. What was refused counts as not recalled. fact_recall_served: other wordings than",
    "the trained one, asked as they are served, of up to 32 examples of each dataset, when its turn came last (decision 94).",
    "One chain may go over several versions of the code; bench/LOG.md says which.",
)


class OutOfTimeError(Exception):
    """The minutes are used up; everything that was done stands on the disk."""


class Minutes:
    """The time that this run may take."""

    def __init__(self, minutes: float) -> None:
        self._until = time.monotonic() + 60 * minutes

    def wait(self) -> None:
        """Let a little time pass; raise ``OutOfTimeError`` when there is no more."""
        if time.monotonic() > self._until:
            raise OutOfTimeError
        time.sleep(LOOKS_SECONDS)


def order(count: int) -> Iterator[tuple[str, str]]:
    """Yield name and domain of each drop: the domains in turn, without those that have no 25 facts left."""
    left = {domain: len(domains.everything(domain, domains.CACHE)) // ROWS for domain in domains.DOMAINS}
    number = 0
    while number < count and any(left.values()):
        for domain in domains.DOMAINS:
            if left[domain] and number < count:
                left[domain] -= 1
                number += 1
                yield f"{number:03d}-{domain}", domain


class Long:
    """One row of drops in a home of its own, and what became of each."""

    def __init__(self, folder: Path, *, is_tiny: bool) -> None:
        self.home = Home(folder / "home")
        self._path = folder / "done.json"
        self._settings = (*BY_DAY, *(TINY if is_tiny else ()))
        self.done: dict[str, dict[str, Any]] = files.read_json(self._path) if self._path.exists() else {}
        self.nights: list[dict[str, Any]] = self.done.pop("nights", {}).get("refits", [])
        if not is_tiny:
            for source in ("smollm2", "minilm"):
                report.add_base(self.home.root, source)
        elif not self.home.base("tiny").exists():
            for place in (self.home.root / "configs", self.home.inbox, self.home.models / "base"):
                place.mkdir(parents=True, exist_ok=True)
            shutil.move(attacks_world.save_base(folder), self.home.base("tiny"))

    def run(self, drops: Sequence[tuple[str, Sequence[domains.Fact]]], minutes: Minutes) -> None:
        """Drop what is not done yet, with a night behind every tenth."""
        for begin in range(0, len(drops), DAY):
            day = drops[begin : begin + DAY]
            if any(name not in self.done for name, _ in day):
                with three_drops.daemon(self.home, (*self._settings, *NEVER)) as client:
                    for name, facts in day:
                        if name not in self.done:
                            self._learn(client, name, facts, minutes)
            if len(self.nights) <= begin // DAY and len(day) == DAY:
                with three_drops.daemon(self.home, (*self._settings, *ALL_THE_TIME)) as client:
                    self.nights.append(self._sleep(client, minutes))
                self._keep()

    def _learn(self, client: Client, name: str, facts: Sequence[domains.Fact], minutes: Minutes) -> None:
        """Drop a file, unless it was before, and wait for its job."""
        if not self._jobs(client, name):
            held_out = {fact.question: [fact.paraphrase] for fact in facts}
            files.write_json(self.home.inbox / f"{name}.json.wordings.json", held_out)
            part = self.home.inbox / f".{name}.part"
            domains.write(facts, part)
            part.rename(self.home.inbox / f"{name}.json")
        while not (jobs := self._jobs(client, name)) or jobs[0]["state"] in OPEN_JOBS:
            minutes.wait()
        self.done[name] = {
            "seconds": jobs[0]["ended_at"] - jobs[0]["started_at"],
            **self._figures(client, jobs[0]),
        }
        self._keep()
        print(
            name,
            json.dumps({k: v for k, v in self.done[name].items() if k not in {"scores", "facts"}}),
            flush=True,
        )

    def _sleep(self, client: Client, minutes: Minutes) -> dict[str, Any]:
        """Let the night pass: until nothing is under way, and nothing was queued for some seconds."""
        quiet = 0.0
        while quiet < NIGHT_SECONDS:
            minutes.wait()
            quiet = 0.0 if self._jobs(client, "memory", OPEN_JOBS) else quiet + LOOKS_SECONDS
        ended = [job for job in self._jobs(client, "memory") if job["ended_at"]]
        new = ended[: len(ended) - sum(len(night["jobs"]) for night in self.nights)]
        return {
            "jobs": [
                {
                    "id": job["id"],
                    "kind": job["kind"],
                    "state": job["state"],
                    "failed": (job["reason"] or {}).get("failed"),
                }
                for job in new
            ],
            "seconds": sum(job["ended_at"] - (job["started_at"] or job["ended_at"]) for job in new),
        }

    def _jobs(self, client: Client, dataset: str, states: Sequence[str] = ()) -> list[dict[str, Any]]:
        """Return a dataset's jobs, the newest first."""
        jobs = client.call("GET", "/lorad/jobs")["jobs"]
        return [job for job in jobs if job["dataset"] == dataset and (not states or job["state"] in states)]

    def _figures(self, client: Client, job: dict[str, Any]) -> dict[str, Any]:
        """Return what the version that serves now has measured, which a refused drop is not in."""
        latest = client.call("GET", "/lorad/versions")["latest"]
        found = {"state": job["state"], "failed": (job["reason"] or {}).get("failed"), "version": latest}
        if latest is None:
            return {**found, "scores": {}, "facts": {}, "perplexity": None, "perplexity_base": None}
        papers = files.read_json(self.home.models / "chat" / "versions" / latest / "evaluation.json")
        measured = papers["evaluation"]
        keys = ("scores", "facts", "perplexity", "perplexity_base", "repairs")
        return {**found, **{key: measured[key] for key in keys}}

    def _keep(self) -> None:
        files.write_json(self._path, {**self.done, "nights": {"refits": self.nights}})


def figures(names: Sequence[str], run: Long) -> dict[str, Any]:
    """Return the flat figures of a row whose drops are all done."""
    lines = [run.done[name] for name in names]
    last, count = lines[-1], len(lines)
    kept = summarise([[_recall(line, name) for name in names[: at + 1]] for at, line in enumerate(lines)])
    seconds = [line["seconds"] for line in lines]
    asked = [scores["other_served"] for scores in last["facts"].values() if scores.get("other_served")]
    total = sum(score["total"] for score in asked)
    nightly = [job for night in run.nights for job in night["jobs"]]
    return {
        f"acc{count}": _rounded(kept.acc),
        f"bwt{count}": _rounded(kept.bwt),
        f"perplexity_rise{count}": _rounded(_ratio(last["perplexity"], last["perplexity_base"], 1)),
        f"cost_ratio{count}": _rounded(seconds[-1] / seconds[0]),
        f"cycle_ratio{count}": _rounded(sum(seconds[-CYCLE:]) / sum(seconds[:CYCLE])),
        "fact_recall_served": _rounded(sum(score["right"] for score in asked) / total if total else None),
        "drops": count,
        "seconds": round(sum(seconds)),
        "night_seconds": round(sum(night["seconds"] for night in run.nights)),
        "consolidations": sum(job["kind"] == "consolidate" for job in nightly),
        "refits": sum(job["kind"] == "refit" for job in nightly),
        "refused": sum(line["state"] != "promoted" for line in lines),
        **{f"drops_{name}": many for name, many in Counter(name.partition("-")[2] for name in names).items()},
    }


def plot(names: Sequence[str], run: Long) -> None:
    """Draw by drop: what is recalled of all so far, what sessions cost, how far the base has drifted."""
    plt = report.pyplot()
    lines = [run.done[name] for name in names]
    drops = range(1, len(lines) + 1)
    recalled = [
        sum(_recall(line, name) for name in names[:at]) / at for at, line in zip(drops, lines, strict=True)
    ]
    risen = [_ratio(line["perplexity"], line["perplexity_base"], 1) for line in lines]
    figure, axes = plt.subplots(3, 1, figsize=(7, 7), sharex=True)
    axes[0].plot(drops, recalled, marker=".")
    axes[0].axhline(0.97, color="grey", linestyle=":")
    axes[0].set(ylabel="recall, all datasets", ylim=(0.8, 1.01))
    axes[1].plot(drops, [line["seconds"] for line in lines], marker=".")
    axes[1].axhline(2 * lines[0]["seconds"], color="grey", linestyle=":")
    axes[1].set(ylabel="seconds of the session", ylim=(0, None))
    axes[2].plot(drops, risen, marker=".")
    axes[2].axhline(0.05, color="grey", linestyle=":")
    axes[2].set(ylabel="perplexity above the base's", xlabel="drop of 25 facts")
    figure.suptitle("dotted: the aims")
    figure.tight_layout()
    figure.savefig(report.RESULTS / "long.png", dpi=120)


def _recall(line: dict[str, Any], name: str) -> float:
    score = line["scores"].get(name)
    return score["right"] / score["total"] if score else 0.0


def _ratio(value: float | None, base: float | None, less: float = 0.0) -> float | None:
    return None if value is None or not base else value / base - less


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def main() -> None:
    """Go on with the drops for so many minutes, and tell what there is."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=55.0)
    parser.add_argument("--drops", type=int, default=DROPS, help="fewer, to see whether it works")
    parser.add_argument("--tiny", action="store_true", help="the tests' tiny model, to see whether it works")
    parser.add_argument("--fresh", action="store_true", help="begin anew")
    options = parser.parse_args()
    is_trial = options.tiny or options.drops != DROPS
    folder = report.CACHE / ("long_trial" if is_trial else "long")
    if options.fresh:
        files.remove(folder)
    folder.mkdir(parents=True, exist_ok=True)
    named = list(order(options.drops))
    facts = domains.drops([(domain, ROWS) for _, domain in named], SEED)
    names = [name for name, _ in named]
    run = Long(folder, is_tiny=options.tiny)
    try:
        run.run(list(zip(names, facts, strict=True)), Minutes(options.minutes))
    except OutOfTimeError:
        names = [name for name in names if name in run.done]
        print(f"{len(names)} of {options.drops} drops are done; run it again to go on")
        if len(names) < 2:
            return
    found = figures(names, run)
    print(json.dumps(found, indent=2))
    if not is_trial:
        plot(names, run)
        report.save("long", found, NOTES)


if __name__ == "__main__":
    main()
