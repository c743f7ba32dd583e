"""Tokens per second after one learned drop on SmolLM2: the daemon for 1, 4 and 16 clients, beside transformers and llama.cpp.

    python bench/serve.py [--fresh] [--only ARM ...]

Arms, each in a process of its own and resumed from the cache: `learn` (one campus set through the daemon), `generate` (plain
`transformers.generate` on the merged copy, one row and sixteen), `compile` (the same with a static cache and `torch.compile`,
where a C++ compiler is at hand), `builtin_1`, `builtin_4`, `builtin_16` (clients over the socket), `adapter_1` (the same
without the merged copy), `swaps` (1,000 requests and 50 changes of what serves, in float32), `swaps_served` (the same in the precision that serves), `alike` (sixteen answers one by one
and together, in float32), `training` (answers while a session trains, and what that costs it), `recall` (what the adapter and
the merged copy recall of memory), `llamacpp` (the exported GGUF, where llama-cpp-python is installed), `backend_llamacpp` and
`swaps_llamacpp` (the daemon with that backend, where it is there; also `..._16` and `..._served`) and `bandwidth` (reading memory).

All ask the same questions, with the same prompts and greedily, for at most 64 tokens; the time to read the prompt counts.
"""

import itertools
import json
import math
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

import report
import three_drops
import wordings
from lorad.config import EngineSettings, Settings
from lorad.errors import LoradError
from lorad.evaluation import metrics
from lorad.home import Home
from lorad.models import bases, hardware, merged_model, packed_linear
from lorad.models.adapter_stack import AdapterStack
from lorad.serving import backends
from lorad.serving.answers import SessionProgress
from lorad.serving.client import Client
from lorad.storage.database import Database
from lorad.storage.memory import Memory
from lorad.tasks import encode, find
from lorad.versions import export, llamacpp
from lorad.versions.store import Registry

DATASET = "campus_cs"
TOKENS = 64
"""Most tokens of an answer."""
ASKED = 16
"""Answers of an arm with one client; of the others so many for each client, but at most ``MOST``."""
MOST = 64
SWAP_REQUESTS, SWAPS, SWAP_TOKENS = 1000, 50, 8
SHORT = 16
"""Tokens of an answer that is timed while a session trains."""
IDLE_ANSWERS = 40
TRAINED_BESIDE = "campus_housing"
WINDOW, WINDOWS = 60.0, 3
"""Seconds in which a session is left alone, asked without a break, and asked with breaks, so often in turn."""
BREAK = 2.0
"""Seconds between an answer and the next question, where there are breaks."""
SETTINGS = Settings()
CHAT = find("chat")
SUBJECTS = (
    "a lighthouse",
    "rain",
    "how bread is made",
    "a walk through Lisbon",
    "bees",
    "the tides",
    "an old clock",
    "learning to swim",
)
ARMS = (
    "learn",
    "generate",
    "compile",
    "builtin_1",
    "builtin_4",
    "builtin_16",
    "adapter_1",
    "swaps",
    "swaps_served",
    "alike",
    "training",
    "recall",
    "llamacpp",
    "backend_llamacpp",
    "backend_llamacpp_16",
    "swaps_llamacpp",
    "swaps_llamacpp_served",
    "bandwidth",
)
NOTES = (
    "tokens_per_second_N: of all answers together, N clients over the socket; first_token_ms_N: median.",
    "bandwidth_share_1: tokens_per_second_1 times the bytes of the weights, over the bytes a second that reading memory gives.",
    "swaps: how often what serves was changed meanwhile; mixed: answers that are not those of the version that they name, in float32;",
    "longest_pause_ms: between two pieces of any answer of eight clients, in the precision that serves; the same without swaps;",
    "llamacpp_X: that backend in float32, llamacpp_served_X: in f16.",
    "single_differs, batched_differs: of sixteen greedy answers in float32, those that another run alone, or all together, gives otherwise;",
    "p95_training_ratio: p95 of an answer of 16 tokens while a session trains, to the same with none, asked without a break;",
    "p95_training_breaks_ratio: asked two seconds after the answer before; training_tokens_per_second_X: of the session meanwhile;",
    "training_keeps_X: that, as a share of what it makes alone.",
    "adapter_1: as before this version; recall_adapter and recall_merged: share of memory that each form of the version gets right.",
)


def questions(count: int) -> list[list[dict[str, str]]]:
    """Return different questions with long answers."""
    asked = itertools.islice(itertools.cycle(SUBJECTS), count)
    return [
        [{"role": "user", "content": f"Tell me a long story about {subject}, number {number}."}]
        for number, subject in enumerate(asked)
    ]


def home() -> Home:
    found = Home(report.CACHE / "serve")
    report.add_smollm2(found.root)
    return found


# -- learning


def learn() -> dict[str, Any]:
    with three_drops.daemon(home()) as client:
        jobs = [job for job in client.call("GET", "/lorad/jobs")["jobs"] if job["dataset"] == DATASET]
        done = next((job for job in jobs if job["state"] == "promoted"), None)
        if done is None:
            source = report.BENCH.parent / "examples" / f"{DATASET}.json"
            done = wordings.drop(client, home(), DATASET, source)
        while (
            client.status().tracks["chat"].not_indexed
        ):  # meanwhile answers wait for texts that are embedded
            time.sleep(1.0)
        return {"job": done}


def held() -> tuple[bases.Base, AdapterStack, Registry, str]:
    """Return the base in the precision that serves, with the learned version on it."""
    place = home()
    base = bases.load_to_answer(place.base("smollm2"), SETTINGS.engine.device, SETTINGS.training)
    registry, stack = Registry(place.track("chat")), AdapterStack(base)
    version = registry.latest
    assert version, "learn first"
    stack.add(version, registry.path(version))
    return base, stack, registry, version


# -- transformers


def generate() -> dict[str, Any]:
    base, stack, _, version = held()
    made = merged_plain(base, stack, version)
    return {
        **timed("generate_1", base, lambda prompts: [generated(made, [prompt]) for prompt in prompts]),
        **timed("generate_16", base, lambda prompts: [generated(made, prompts)]),
    }


def merged_plain(base: bases.Base, stack: AdapterStack, version: str) -> Any:
    """Return the merged copy as transformers would have it: its layers are not packed."""
    can_pack, packed_linear.can_pack = packed_linear.can_pack, lambda _: False
    try:
        return merged_model.merged(base.model, stack.read(version))
    finally:
        packed_linear.can_pack = can_pack


def compiled() -> dict[str, Any]:
    if not any(map(shutil.which, ("g++", "clang++"))):
        return {"compile_skipped": "no C++ compiler"}
    base, stack, _, version = held()
    made = merged_plain(base, stack, version)
    try:
        began = time.perf_counter()
        made.forward = torch.compile(made.forward, dynamic=True)
        generated(made, [prompts_of(base, 1)[0]], cache_implementation="static")
        first = time.perf_counter() - began
        found = timed(
            "compile_1",
            base,
            lambda prompts: [generated(made, [prompt], cache_implementation="static") for prompt in prompts],
        )
    except Exception as error:  # noqa: BLE001 - whatever a compiler may say
        return {"compile_skipped": f"{type(error).__name__}: {error}"[:200]}
    return {**found, "compile_first_seconds": round(first, 1)}


@torch.inference_mode()
def generated(model: Any, prompts: Sequence[list[int]], **how: Any) -> int:
    """Return how many tokens were made."""
    longest, end = max(map(len, prompts)), model.generation_config.eos_token_id
    ends = end if isinstance(end, list) else [end]
    padded = torch.tensor([[ends[0]] * (longest - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    made = model.generate(
        padded, attention_mask=mask, max_new_tokens=TOKENS, do_sample=False, pad_token_id=ends[0], **how
    )
    return sum(length_of(row, ends) for row in made[:, longest:].tolist())


def length_of(tokens: list[int], ends: Sequence[int]) -> int:
    return next((number + 1 for number, token in enumerate(tokens) if token in ends), len(tokens))


def prompts_of(base: bases.Base, count: int) -> list[list[int]]:
    return [CHAT.prompt(base.tokenizer, question) for question in questions(count)]


def timed(name: str, base: bases.Base, act: Callable[[list[list[int]]], list[int]]) -> dict[str, Any]:
    prompts = prompts_of(base, ASKED)
    act(prompts[:2])
    began = time.perf_counter()
    made = sum(act(prompts))
    return {name: round(made / (time.perf_counter() - began), 1)}


# -- the daemon


def clients(count: int, settings: Sequence[str] = ()) -> dict[str, Any]:
    """Ask over the socket from so many threads at once."""
    asked = questions(min(MOST, ASKED * count))
    waiting, firsts, made = iter(asked), [], []
    lock = threading.Lock()

    def ask(client: Client) -> None:
        while True:
            with lock:
                question = next(waiting, None)
            if question is None:
                return
            began = time.perf_counter()
            answer = client.stream_chat(question, max_tokens=TOKENS, temperature=0, lorad={"retrieve": False})
            first = None
            for _ in answer:
                first = first or time.perf_counter() - began
            with lock:
                made.append(answer.tokens or 0)
                firsts.append(first or time.perf_counter() - began)

    place = home()
    with three_drops.daemon(place, settings) as client:
        for _ in questions(2):
            client.chat(asked[0], max_tokens=8, lorad={"retrieve": False})
        threads = [
            threading.Thread(target=ask, args=(Client(place.socket(SETTINGS.server.socket)),))
            for _ in range(count)
        ]
        began = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        elapsed = time.perf_counter() - began
        told = client.status().engine
    assert len(made) == len(asked), "an answer failed"
    return {
        "tokens_per_second": round(sum(made) / elapsed, 1),
        "first_token_ms": round(1000 * median(firsts), 1),
        "answers": len(made),
        "told": told.tokens_per_second,
    }


# -- swaps


def swaps(settings: Sequence[str] = (), *, is_exact: bool = True) -> dict[str, Any]:
    """Change what serves again and again while eight clients ask, and let them ask as often without any change.

    Exactly: in float32, where greedy answers are those of each version alone.
    """
    place, asked = home(), questions(len(SUBJECTS))
    how: dict[str, Any] = {"max_tokens": SWAP_TOKENS, "temperature": 0, "lorad": {"retrieve": False}}
    precision = ["training.dtype=float32", "engine.gguf=f32"] if is_exact else []
    with three_drops.daemon(place, [*precision, *settings]) as client:
        version = Registry(place.track("chat")).latest
        assert version, "learn first"
        names = ("base", version)
        alone = {
            (number, f"chat@{name}"): "".join(client.stream_chat(question, f"chat@{name}", **how))
            for number, question in enumerate(asked)
            for name in names
        }
        socket = place.socket(SETTINGS.server.socket)
        calm, _ = asked_by_eight(socket, asked, how, SWAP_REQUESTS // 5, lambda _: False)

        def change(made: int) -> bool:
            if made < SWAPS:
                client.rollback("chat", names[made % 2])
            return made < SWAPS

        told, made = asked_by_eight(socket, asked, how, SWAP_REQUESTS, change)
        client.rollback("chat", version)
    found = {
        "swaps": made,
        "swap_requests": len(told),
        "failed": sum(each.text is None for each in told),
        "longest_pause_ms": longest(told),
        "longest_pause_without_swaps_ms": longest(calm),
    }
    if is_exact:
        odd = [each for each in told if each.text not in (None, alone[each.number, each.model])]
        found["mixed"] = len(odd)
        found["mixed_of_another"] = sum(
            each.text == alone[each.number, f"chat@{name}"] for each in odd for name in names
        )
        for each in odd:
            print("mixed", each, "alone", alone[each.number, each.model], flush=True)
    return found


@dataclass(frozen=True, slots=True)
class Told:
    """An answer: the question's number, what answered, the text unless it failed, the longest wait between two pieces."""

    number: int
    model: str
    text: str | None
    pause: float


def longest(told: Sequence[Told]) -> float:
    return round(1000 * max(each.pause for each in told), 1)


def asked_by_eight(
    socket: Path,
    asked: Sequence[list[dict[str, str]]],
    how: dict[str, Any],
    count: int,
    change: Callable[[int], bool],
) -> tuple[list[Told], int]:
    """Ask so many questions from eight clients, and more until ``change``, called evenly meanwhile, says no; count its calls."""
    numbers, told, lock = itertools.count(), list[Told](), threading.Lock()
    changing = threading.Event()
    changing.set()

    def ask() -> None:
        own = Client(socket)
        while (at := next(numbers)) < count or changing.is_set():
            found = once(own, at % len(asked), asked[at % len(asked)], how)
            with lock:
                told.append(found)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    made = 0
    while changing.is_set():
        if len(told) < made * count // SWAPS:
            time.sleep(0.02)
        elif change(made):
            made += 1
        else:
            changing.clear()
    for thread in threads:
        thread.join()
    return told, made


def once(client: Client, number: int, question: list[dict[str, str]], how: dict[str, Any]) -> Told:
    """Ask once."""
    answer, text, longest, last = client.stream_chat(question, **how), "", 0.0, None
    try:
        for piece in answer:
            now = time.perf_counter()
            longest, last, text = max(longest, now - (last or now)), now, text + piece
    except LoradError:
        return Told(number, answer.model, None, longest)
    return Told(number, answer.model, text, longest)


# -- alike


def alike() -> dict[str, Any]:
    """Ask greedily in float32, one by one, once more, and all at once."""
    asked = questions(16)
    how: dict[str, Any] = {"max_tokens": TOKENS, "temperature": 0, "lorad": {"retrieve": False}}
    place = home()
    with three_drops.daemon(place, ["training.dtype=float32"]):
        path = place.socket(SETTINGS.server.socket)

        def said(question: list[dict[str, str]]) -> str:
            return "".join(Client(path).stream_chat(question, **how))

        single, again = list(map(said, asked)), list(map(said, asked))
        with ThreadPoolExecutor(len(asked)) as pool:
            together = list(pool.map(said, asked))
    return {
        "alike_answers": len(asked),
        "single_differs": sum(one != other for one, other in zip(single, again, strict=True)),
        "batched_differs": sum(one != other for one, other in zip(single, together, strict=True)),
    }


# -- training


def training() -> dict[str, Any]:
    """Time short answers with no session, and beside one that is left alone, asked without a break and with breaks in turn."""
    learned, place = home(), Home(report.CACHE / "serve_training")
    shutil.rmtree(place.root, ignore_errors=True)
    shutil.copytree(learned.root, place.root, symlinks=True, ignore=shutil.ignore_patterns("*.sock", "*.log"))
    long = [  # it computes as any session does, and learns too slowly to end
        "planner.learning_rates=[{learning_rate: 1.0e-9}]",
        "planner.stopping.max_rounds=500",
        "planner.stopping.patience=500",
    ]
    with three_drops.daemon(place, long) as client:
        short(client, 3)
        idle = [short(client, 1) for _ in range(IDLE_ANSWERS)]
        shutil.copy(report.BENCH.parent / "examples" / f"{TRAINED_BESIDE}.json", place.inbox)
        first = wait_for_training(client)
        kinds: dict[str, float | None] = {"alone": None, "beside": 0.0, "breaks": BREAK}
        waits: dict[str, list[float]] = {name: [] for name in kinds}
        rates: dict[str, list[float]] = {name: [] for name in kinds}
        for name in [*kinds] * WINDOWS:
            began, before = time.perf_counter(), trained(client)
            waits[name] += asked_for(client, kinds[name])
            rates[name].append((trained(client) - before) / (time.perf_counter() - began))
        paused = session_of(client).paused_seconds
        client.cancel(first.job)
    found: dict[str, Any] = {
        "p95_idle_s": p95(idle),
        "p95_training_s": p95(waits["beside"]),
        "p95_training_breaks_s": p95(waits["breaks"]),
        "training_answers": sum(map(len, waits.values())),
        "training_paused_seconds": paused,
    }
    found["p95_training_ratio"] = found["p95_training_s"] / found["p95_idle_s"]
    found["p95_training_breaks_ratio"] = found["p95_training_breaks_s"] / found["p95_idle_s"]
    found |= {f"training_tokens_per_second_{name}": sum(each) / WINDOWS for name, each in rates.items()}
    alone = found["training_tokens_per_second_alone"]
    for name in ("beside", "breaks"):
        found[f"training_keeps_{name}"] = found[f"training_tokens_per_second_{name}"] / alone
    return {name: round(value, 3) if isinstance(value, float) else value for name, value in found.items()}


def asked_for(client: Client, rest: float | None) -> list[float]:
    """Ask for ``WINDOW`` seconds with so many between two questions, ``None``: not at all; return what each answer took."""
    until, found = time.monotonic() + WINDOW, []
    if rest is None:
        time.sleep(WINDOW)
    while time.monotonic() < until:
        found.append(short(client, 1))
        time.sleep(rest or 0.0)
    return found


def short(client: Client, count: int) -> float:
    """Ask for so many short answers; return what the last one took."""
    took = 0.0
    for _ in range(count):
        began = time.perf_counter()
        client.chat(questions(1)[0], max_tokens=SHORT, temperature=0, lorad={"retrieve": False})
        took = time.perf_counter() - began
    return took


def session_of(client: Client) -> SessionProgress:
    session = client.status().session
    assert session is not None, "the session has ended; it must last for all windows"
    return session


def trained(client: Client) -> int:
    """Return how many tokens the session has trained."""
    return session_of(client).tokens or 0


def wait_for_training(client: Client) -> SessionProgress:
    """Return the session once it trains: loading and testing come before."""
    while True:
        session = client.status().session
        if session is not None and session.tokens:
            return session
        time.sleep(1.0)


def p95(seconds: Sequence[float]) -> float:
    return sorted(seconds)[math.ceil(0.95 * len(seconds)) - 1]


# -- the backend of llama.cpp


def with_llamacpp(act: Callable[[Sequence[str]], dict[str, Any]], name: str) -> dict[str, Any]:
    """Do something with the daemon on llama.cpp, or say why not; its figures begin with ``name``."""
    try:
        backends.chosen(EngineSettings(backend="llamacpp"))
    except LoradError as error:
        return {f"{name}_skipped": error.message}
    if not llamacpp.is_installed():
        return {f"{name}_skipped": "llama-cpp-python is not installed"}
    return {f"{name}_{key}": value for key, value in act(["engine.backend=llamacpp"]).items()}


# -- what else


def recall() -> dict[str, Any]:
    """Compare what the two forms of the version recall of all that is in memory."""
    base, stack, _, version = held()
    database = Database(home().database)
    try:
        usable, _ = encode(CHAT, base.tokenizer, Memory(database, "chat").all())
    finally:
        database.close()
    rows = [row for _, row in usable]
    forms = {
        "adapter": stack.model(version),
        "merged": merged_model.merged(base.model, stack.read(version)),
    }
    found: dict[str, Any] = {"examples": len(rows), "dtype": str(base.model.dtype)}
    for name, model in forms.items():
        right = metrics.recalled(CHAT, model, rows)
        found[f"recall_{name}"] = round(sum(right) / len(right), 4)
    return found


def llama() -> dict[str, Any]:
    if not llamacpp.is_installed():
        return {"llamacpp_skipped": "llama-cpp-python is not installed"}
    base, _, registry, version = held()
    prompts = prompts_of(base, ASKED)
    ends = set(CHAT.stop_tokens(base.tokenizer))
    with tempfile.TemporaryDirectory() as scratch:
        target = Path(scratch) / "exported"
        export.export(registry.path(version), home().base("smollm2"), target, "gguf")
        file = next(target.rglob("*.gguf"))
        size = file.stat().st_size
        with llamacpp.opened(file, 2048, n_threads=os.cpu_count()) as model:
            made = 0
            for round_number in range(2):  # the first warms up
                asked = prompts[: 2 if round_number == 0 else None]
                made, began = 0, time.perf_counter()
                for prompt in asked:
                    for token in itertools.islice(model.generate(prompt, temp=0.0, top_k=1), TOKENS):
                        made += 1
                        if token in ends:
                            break
            elapsed = time.perf_counter() - began
    return {"llamacpp_f16_1": round(made / elapsed, 1), "llamacpp_file_bytes": size}


def bandwidth() -> dict[str, Any]:
    """Read one GB of memory with all cores, several times; the best counts."""
    numbers, best = torch.ones(2**28), 0.0
    for _ in range(8):
        began = time.perf_counter()
        numbers.sum()
        best = max(best, numbers.numel() * 4 / (time.perf_counter() - began))
    base = bases.load_to_answer(home().base("smollm2"), SETTINGS.engine.device, SETTINGS.training)
    weights = sum(weight.numel() * weight.element_size() for weight in base.model.parameters())
    return {"bytes_per_second": best, "weight_bytes": weights}


def run_arm(arm: str) -> dict[str, Any]:
    others: dict[str, Callable[[], dict[str, Any]]] = {
        "learn": learn,
        "generate": generate,
        "compile": compiled,
        "recall": recall,
        "swaps": swaps,
        "swaps_served": lambda: swaps(is_exact=False),
        "alike": alike,
        "training": training,
        "backend_llamacpp": lambda: with_llamacpp(lambda how: clients(1, how), "backend_llamacpp"),
        "backend_llamacpp_16": lambda: with_llamacpp(lambda how: clients(16, how), "backend_llamacpp_16"),
        "swaps_llamacpp": lambda: with_llamacpp(swaps, "llamacpp"),
        "swaps_llamacpp_served": lambda: with_llamacpp(
            lambda how: swaps(how, is_exact=False), "llamacpp_served"
        ),
        "llamacpp": llama,
        "bandwidth": bandwidth,
        "adapter_1": lambda: clients(1, ["engine.merge_served=false"]),
    }
    return others[arm]() if arm in others else clients(int(arm.removeprefix("builtin_")))


def figures(arms: dict[str, dict[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for count in (1, 4, 16):
        arm = arms[f"builtin_{count}"]
        found[f"tokens_per_second_{count}"] = arm["tokens_per_second"]
        found[f"first_token_ms_{count}"] = arm["first_token_ms"]
    found["adapter_1"] = arms["adapter_1"]["tokens_per_second"]
    for name in ("generate", "compile", "swaps", "alike", "training", "recall", "llamacpp"):
        found |= arms[name]
    found |= arms["swaps_llamacpp"] | arms["swaps_llamacpp_served"]
    for name in ("longest_pause_ms", "longest_pause_without_swaps_ms"):
        found[name.replace("_ms", "_float32_ms")] = found[name]
        found[name] = arms["swaps_served"][name]
    found |= {f"served_{name}": arms["swaps_served"][name] for name in ("swaps", "swap_requests", "failed")}
    backend = arms["backend_llamacpp"]
    found |= {name: value for name, value in backend.items() if name.endswith("skipped")}
    if "backend_llamacpp_tokens_per_second" in backend:
        found["backend_llamacpp_1"] = backend["backend_llamacpp_tokens_per_second"]
        found["backend_llamacpp_first_token_ms_1"] = backend["backend_llamacpp_first_token_ms"]
        many = arms["backend_llamacpp_16"]
        found["backend_llamacpp_16"] = many["backend_llamacpp_16_tokens_per_second"]
        found["backend_llamacpp_first_token_ms_16"] = many["backend_llamacpp_16_first_token_ms"]
    read = arms["bandwidth"]
    one = found["tokens_per_second_1"]
    found["bandwidth_gb_per_second"] = round(read["bytes_per_second"] / 1e9, 1)
    found["bandwidth_share_1"] = round(one * read["weight_bytes"] / read["bytes_per_second"], 3)
    found["times_generate_1"] = round(one / found["generate_1"], 2)
    found["sixteen_times_one"] = round(found["tokens_per_second_16"] / one, 2)
    if "llamacpp_f16_1" in found:
        found["share_of_llamacpp_f16_1"] = round(one / found["llamacpp_f16_1"], 2)
        if "backend_llamacpp_1" in found:
            found["backend_llamacpp_share"] = round(found["backend_llamacpp_1"] / found["llamacpp_f16_1"], 2)
    return found


def plot(found: dict[str, Any]) -> None:
    """Draw tokens a second by who makes them, and the longest pauses."""
    plt = report.pyplot()
    fig, (left, right) = plt.subplots(1, 2, figsize=(11, 4))
    made = {
        "llama.cpp alone, 1": "llamacpp_f16_1",
        "lorad on llama.cpp, 1": "backend_llamacpp_1",
        "lorad on llama.cpp, 16": "backend_llamacpp_16",
        "generate, 1 row": "generate_1",
        "generate, 16 rows": "generate_16",
        "compiled, 1 row": "compile_1",
        "lorad unmerged, 1": "adapter_1",
        "lorad, 1 client": "tokens_per_second_1",
        "lorad, 4 clients": "tokens_per_second_4",
        "lorad, 16 clients": "tokens_per_second_16",
    }
    known = {label: found[name] for label, name in made.items() if name in found}
    bars = left.barh(
        [*known], [*known.values()], color=["C0" if "lorad" in label else "C7" for label in known]
    )
    left.bar_label(bars, fmt="%.0f", padding=2)
    left.set(title="Tokens a second", xlim=(0, 1.12 * max(known.values())))
    left.invert_yaxis()
    paused = {
        "built-in": ("longest_pause_without_swaps_ms", "longest_pause_ms"),
        "built-in, float32": ("longest_pause_without_swaps_float32_ms", "longest_pause_float32_ms"),
        "llama.cpp": ("llamacpp_served_longest_pause_without_swaps_ms", "llamacpp_served_longest_pause_ms"),
    }
    places = {label: names for label, names in paused.items() if names[0] in found}
    for at, (label, color) in enumerate((("no swaps", "C7"), ("50 swaps", "C1"))):
        heights = [found[names[at]] for names in places.values()]
        bars = right.bar(
            [place + 0.4 * at for place in range(len(places))], heights, 0.4, label=label, color=color
        )
        right.bar_label(bars, fmt="%.0f")
    right.set(title="Longest pause in an answer, 8 clients (ms)")
    right.set_xticks([place + 0.2 for place in range(len(places))], [*places])
    right.axhline(100, linestyle=":", color="black", linewidth=1)
    right.legend()
    fig.tight_layout()
    fig.savefig(report.RESULTS / "serve.png", dpi=110)


def main() -> None:
    hardware.quieten()
    arms = report.arms(
        __file__, ARMS, run_arm, lambda _: shutil.rmtree(report.CACHE / "serve", ignore_errors=True)
    )
    if set(arms) != set(ARMS):
        print(json.dumps(arms, indent=2))
        return
    found = figures(arms)
    plot(found)
    report.save("serve", found, [*(__doc__ or "").splitlines(), "", *NOTES])
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
