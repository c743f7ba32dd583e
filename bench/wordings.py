"""Facts asked for in other words: the three campus sets and five public domains, through the real daemon on SmolLM2.

    python bench/wordings.py [--fresh] [--only ARM ...]

Arms, each in a process of its own and resumed from the cache: `today` (the file's wording alone, as before), `campus`
(other wordings in training), `public` (the same on five public domains), `ask_campus` and `ask_public` (every question
through the socket, as people ask), `weights` (the same questions put to the version's weights alone, many together, in
the bench's own process), `search` (100,000 rows). What was tried while this was built used other data
(data/harbour*.json, data/reranker); none of this bench's.
"""

import json
import random
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import domains
import report
import search
import three_drops
from lorad.config import Settings
from lorad.evaluation import facts, general_ability
from lorad.home import Home
from lorad.models import bases, generation, hardware
from lorad.models.adapter_stack import AdapterStack
from lorad.serving.client import Client
from lorad.tasks import Generating, find

DATA = report.BENCH / "data"
EXAMPLES = report.BENCH.parent / "examples"
CAMPUS = ("campus_cs", "campus_housing", "campus_dining")
FACTS_OF_A_DOMAIN = 60
SEED = 0
LONGEST = 96
"""Tokens of an answer in which its fact is looked for."""
LONGEST_CHAT = 24
"""Tokens of an answer to an ordinary prompt: whether it changes shows at once."""
TIMED = 40
"""Questions whose first token is timed with and without the index."""
ARMS = ("today", "campus", "public", "ask_campus", "ask_public", "weights", "search")


def rows(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    return found


def home_of(arm: str) -> Home:
    home = Home(report.CACHE / f"wordings_{arm}")
    for source in ("smollm2", "minilm"):
        report.add_base(home.root, source)
    return home


# -- learning


def learn(arm: str, sets: Sequence[tuple[str, Path]], settings: Sequence[str]) -> dict[str, Any]:
    """Drop sets in turn, and return what became of each."""
    home = home_of(arm)
    done = home.root / "jobs.json"
    jobs: dict[str, Any] = json.loads(done.read_text()) if done.exists() else {}
    with three_drops.daemon(home, settings) as client:
        for name, path in sets:
            if name not in jobs:
                jobs[name] = drop(client, home, name, path)
                done.write_text(json.dumps(jobs))
            print(arm, name, jobs[name]["state"], f"{jobs[name]['seconds']:.0f} s", flush=True)
        versions = client.call("GET", "/lorad/versions")["versions"]
    return {"jobs": jobs, "versions": versions}


def drop(client: Client, home: Home, name: str, path: Path) -> dict[str, Any]:
    """Drop one set and wait for its job, without asking anything meanwhile: this is timed."""
    part = home.inbox / f".{name}.part"
    part.write_bytes(path.read_bytes())
    part.rename(home.inbox / f"{name}.json")
    while True:
        time.sleep(2)
        jobs = [job for job in client.call("GET", "/lorad/jobs")["jobs"] if job["dataset"] == name]
        if jobs and jobs[0]["state"] not in {"queued", "training", "judging"}:
            return {**jobs[0], "seconds": jobs[0]["ended_at"] - jobs[0]["started_at"]}


def campus_sets() -> list[tuple[str, Path]]:
    return [(name, EXAMPLES / f"{name}.json") for name in CAMPUS]


def public_facts() -> dict[str, list[domains.Fact]]:
    return {
        name: domains.facts(name, min(FACTS_OF_A_DOMAIN, len(domains.everything(name, report.CACHE))), SEED)
        for name in domains.DOMAINS
    }


def public_sets() -> list[tuple[str, Path]]:
    folder = report.CACHE / "wordings_sets"
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for name, known in public_facts().items():
        path = folder / f"{name}.json"
        path.write_text(
            json.dumps([{"question": fact.question, "answer": fact.answer} for fact in known]), "utf-8"
        )
        found.append((name, path))
    return found


# -- asking


class Asking:
    """Asks a running lorad, and remembers what it said and in which way."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def ask(
        self, messages: list[dict[str, str]] | str, *, retrieve: bool = True, tokens: int = LONGEST
    ) -> dict[str, Any]:
        said = [{"role": "user", "content": messages}] if isinstance(messages, str) else messages
        answer = self._client.chat(said, "chat", max_tokens=tokens, lorad={"retrieve": retrieve})
        origin = answer.lorad
        return {
            "text": answer.choices[0].message.content,
            "mode": origin.mode if origin else "weights",
            "source": origin.sources[0].question if origin and origin.sources else None,
            "confidence": origin.sources[0].confidence if origin and origin.sources else None,
        }

    def first_token(self, question: str, *, retrieve: bool) -> float:
        began = time.perf_counter()
        stream = self._client.stream_chat(
            [{"role": "user", "content": question}], "chat", max_tokens=4, lorad={"retrieve": retrieve}
        )
        next(iter(stream))
        spent = time.perf_counter() - began
        for _ in stream:
            pass
        return spent * 1000


def ask_facts(
    asking: Asking, asked: Iterable[tuple[str, str, str]], slots: frozenset[facts.Slot]
) -> list[dict[str, Any]]:
    """Ask (wording, trained question, answer) each, and tell whether the fact came."""
    return [
        graded(wording, question, answer, slots, asking.ask(wording)) for wording, question, answer in asked
    ]


def graded(
    wording: str, question: str, answer: str, slots: frozenset[facts.Slot], said: dict[str, Any]
) -> dict[str, Any]:
    right = facts.has_fact(question, answer, said["text"], slots)
    return {"asked": wording, "question": question, "answer": answer, "right": right, **said}


def ask_campus() -> dict[str, Any]:
    known, wordings, slots = campus()
    found: dict[str, Any] = {}
    with three_drops.daemon(home_of("campus"), ()) as client:
        asking = Asking(client)
        wait_for_index(client, known[0]["instruction"])
        for kind, asked in wordings.items():
            found[f"{kind}_served"] = ask_facts(asking, asked, slots)
            right = sum(each["right"] for each in found[f"{kind}_served"])
            print(kind, "served", right, "of", len(asked), flush=True)
        found["untaught"] = [
            {**row, **asking.ask(row["instruction"])} for row in rows(DATA / "untaught.json")
        ]
        found["multi"] = [
            two_facts(row, known, asking.ask(row["instruction"])) for row in rows(DATA / "multi.json")
        ]
        found["ordinary"] = [
            {
                "asked": row["messages"][-1]["content"],
                "with": asking.ask(row["messages"], tokens=LONGEST_CHAT),
                "without": asking.ask(row["messages"], retrieve=False, tokens=LONGEST_CHAT),
            }
            for row in rows(DATA / "ordinary.json")
        ]
        timed = random.Random(SEED).sample(wordings["reworded"], TIMED)
        found["first_token_ms"] = [
            [asking.first_token(wording, retrieve=retrieve) for retrieve in (True, False)]
            for wording, _, _ in timed
        ]
    return found


def weights() -> dict[str, Any]:
    """Put the questions to the latest campus version without its index; measure what its base is as general text goes."""
    known, wordings, slots = campus()
    multi = rows(DATA / "multi.json")
    texts = [wording for asked in wordings.values() for wording, _, _ in asked]
    answers = iter(generate(home_of("campus"), [*texts, *(row["instruction"] for row in multi)]))
    found: dict[str, Any] = {
        f"{kind}_weights": [
            graded(wording, question, answer, slots, {"text": next(answers)})
            for wording, question, answer in asked
        ]
        for kind, asked in wordings.items()
    }
    found["multi"] = [two_facts(row, known, {"text": next(answers)}) for row in multi]
    base = bases.load_to_answer(
        home_of("campus").base("smollm2"), "auto", Settings().training, find("chat").head
    )
    found["base_perplexity"] = general_ability.perplexity(base.model, base.tokenizer)
    return found


def generate(home: Home, questions: Sequence[str]) -> list[str]:
    """Return the greedy answers of the newest version, many questions together."""
    task = find("chat")
    assert isinstance(task, Generating)
    base = bases.load_to_answer(home.base("smollm2"), "auto", Settings().training, task.head)
    stack = AdapterStack(base)
    stack.add("latest", home.root / "models" / "chat" / "latest")
    prompts = [task.prompt(base.tokenizer, [{"role": "user", "content": each}]) for each in questions]
    ends = task.stop_tokens(base.tokenizer)
    found = [""] * len(prompts)
    order = sorted(range(len(prompts)), key=lambda number: len(prompts[number]))
    with stack.use("latest") as model:
        for begin in range(0, len(order), generation.TOGETHER):
            numbers = order[begin : begin + generation.TOGETHER]
            answers = generation.greedy(model, [prompts[each] for each in numbers], ends, LONGEST)
            for number, tokens in zip(numbers, answers, strict=True):
                found[number] = task.text(base.tokenizer, tokens)
    return found


def campus() -> tuple[list[dict[str, Any]], dict[str, list[tuple[str, str, str]]], frozenset[facts.Slot]]:
    """Return what was taught, the questions (wording, trained question, answer) by kind, and what all answers hold."""
    known = [row for name in CAMPUS for row in rows(EXAMPLES / f"{name}.json")]
    by_answer = {row["response"]: row["instruction"] for row in known}
    wordings = {
        "trained": [(row["instruction"], row["instruction"], row["response"]) for row in known],
        "reworded": _wordings("reworded", by_answer),
        "other": _wordings("paraphrases", by_answer),
    }
    return known, wordings, facts.all_slots((row["instruction"], row["response"]) for row in known)


def _wordings(kind: str, by_answer: dict[str, str]) -> list[tuple[str, str, str]]:
    return [
        (row["instruction"], by_answer[row["response"]], row["response"])
        for name in CAMPUS
        for row in rows(DATA / f"{name}.{kind}.json")
    ]


def two_facts(row: dict[str, Any], known: Sequence[dict[str, str]], said: dict[str, Any]) -> dict[str, Any]:
    """Grade an answer to a question of two facts: right is one that holds both."""
    answers = {each["instruction"]: each["response"] for each in known}
    needed = [slot for question in row["needs"] for slot in facts.slots(question, answers[question])]
    held = set(facts.slots("", said["text"]))
    return {
        "asked": row["instruction"],
        **said,
        "right": bool(needed) and all(slot in held for slot in needed),
    }


def ask_public() -> dict[str, Any]:
    known = public_facts()
    asked = [(fact.paraphrase, fact.question, fact.answer) for each in known.values() for fact in each]
    slots = facts.all_slots((fact.question, fact.answer) for each in known.values() for fact in each)
    with three_drops.daemon(home_of("public"), ()) as client:
        wait_for_index(client, asked[0][1])
        return {"other_served": ask_facts(Asking(client), asked, slots)}


def wait_for_index(client: Client, trained: str) -> None:
    """Wait until a question in its trained wording is looked up: the index is whole, and the thresholds fit."""
    while any(track.not_indexed for track in client.status().tracks.values()):
        time.sleep(0.5)
    while Asking(client).ask(trained, tokens=1)["source"] is None:
        time.sleep(0.5)


# -- figures


def share(answers: Sequence[dict[str, Any]], told: Callable[[dict[str, Any]], bool]) -> float:
    return round(sum(map(told, answers)) / len(answers), 4)


def is_right(answer: dict[str, Any]) -> bool:
    return bool(answer["right"])


def is_refused(answer: dict[str, Any]) -> bool:
    return answer["mode"] == "unknown"


def figures(arms: dict[str, Any]) -> dict[str, Any]:
    asked, public, alone = arms["ask_campus"], arms["ask_public"], arms["weights"]
    found: dict[str, Any] = {}
    kinds = ("trained", "reworded", "other")
    for kind in kinds:
        found[f"fact_{kind}_served"] = share(asked[f"{kind}_served"], is_right)
        found[f"fact_{kind}_weights"] = share(alone[f"{kind}_weights"], is_right)
    taught = [each for kind in kinds for each in asked[f"{kind}_served"]]
    found |= {f"taught_refused_{kind}": share(asked[f"{kind}_served"], is_refused) for kind in kinds}
    found["taught_refused"] = share(taught, is_refused)
    found["untaught_false"] = share(asked["untaught"], lambda each: not is_refused(each))
    found["untaught_asked"] = len(asked["untaught"])
    found["multi_served"] = share(asked["multi"], is_right)
    found["multi_weights"] = share(alone["multi"], is_right)
    differs = [each for each in asked["ordinary"] if each["with"]["text"] != each["without"]["text"]]
    is_looked_up = [each["with"]["mode"] != "weights" for each in differs]
    found["chat_changed"] = round(sum(is_looked_up) / len(asked["ordinary"]), 4)
    found["chat_rounded"] = round(is_looked_up.count(False) / len(asked["ordinary"]), 4)
    found["served_overhead_ms"] = round(
        median(on for on, _ in asked["first_token_ms"]) - median(off for _, off in asked["first_token_ms"]), 1
    )
    found["public_other_served"] = share(public["other_served"], is_right)
    found |= {f"other_mode_{mode}": count for mode, count in modes(asked["other_served"]).items()}
    now, then = (last(arms[name]) for name in ("campus", "today"))
    found["trained_recall"] = now["recall"]
    for name, jobs in (("now", arms["campus"]["jobs"]), ("today", arms["today"]["jobs"])):
        found[f"seconds_{name}"] = round(sum(job["seconds"] for job in jobs.values()), 1)
    found["seconds_ratio"] = round(found["seconds_now"] / found["seconds_today"], 3)
    for name, version in (("perplexity_rise", now), ("perplexity_rise_today", then)):
        found[name] = round(version["perplexity"] / alone["base_perplexity"] - 1, 4)
    return found


def modes(answers: Sequence[dict[str, Any]]) -> dict[str, int]:
    return {
        mode: sum(each["mode"] == mode for each in answers)
        for mode in ("taught", "stored", "weights", "unknown")
    }


def last(arm: dict[str, Any]) -> dict[str, Any]:
    performance: dict[str, Any] = arm["versions"][-1]["performance"]
    return performance


def risk(asked: dict[str, Any]) -> None:
    """Plot, for every line that might be drawn, what of the taught is answered rightly and what of the untaught at all."""
    plt = report.pyplot()
    figure, axes = plt.subplots(figsize=(7, 5))
    false = sorted(
        (each["confidence"] or 0.0 for each in asked["untaught"] if each["mode"] != "weights"), reverse=True
    )
    for kind in ("trained", "reworded", "other"):
        lines = [0.0, *sorted({each["confidence"] or 0.0 for each in asked[f"{kind}_served"]}), 1.01]
        points = [
            (
                sum(score >= line for score in false) / max(1, len(asked["untaught"])),
                sum(
                    (each["confidence"] or 0.0) >= line and each["source"] == each["question"]
                    for each in asked[f"{kind}_served"]
                )
                / len(asked[f"{kind}_served"]),
            )
            for line in lines
        ]
        axes.plot(*zip(*points, strict=True), label=f"{kind} wording", marker=".", markersize=3)
    axes.set_xlabel("untaught questions that get an answer (share)")
    axes.set_ylabel("taught questions whose own example answers (share)")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.tight_layout()
    figure.savefig(report.RESULTS / "wordings.png", dpi=110)


def table(found: dict[str, Any]) -> list[str]:
    lines = ["## Arms", "", "| wording | weights only | as served | refused |", "|---|---|---|---|"]
    lines += [
        f"| {kind} | {found[f'fact_{kind}_weights']:.3f} | {found[f'fact_{kind}_served']:.3f} | {found[f'taught_refused_{kind}']:.3f} |"
        for kind in ("trained", "reworded", "other")
    ]
    return lines


def run_arm(arm: str) -> dict[str, Any]:
    if arm == "today":
        return learn(
            arm, campus_sets(), ["planner.wordings=0", "planner.gapped=0", "answering.retrieve=false"]
        )
    if arm == "campus":
        return learn(arm, campus_sets(), [])
    if arm == "public":
        return learn(arm, public_sets(), [])
    if arm == "weights":
        return weights()
    if arm == "search":
        return search.figures()
    return ask_campus() if arm == "ask_campus" else ask_public()


def main() -> None:
    hardware.quieten()
    arms = report.arms(__file__, ARMS, run_arm)
    if set(arms) != set(ARMS):
        return
    found = figures(arms)
    found |= {
        name: arms["search"][name] for name in ("search_ms_100k", "search_codes_ms_100k", "sort_ms_100k")
    }
    risk(arms["ask_campus"])
    report.save("wordings", found, (__doc__ or "").strip().splitlines()[:1], tables=table(found))
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
