"""What lorad does on a CUDA card, in one short script: training, 4-bit, answering, swaps while a session trains, exactness.

    python bench/cuda.py [FOLDER] [--device cuda] [--quick] [--only PART ...] [--seconds 240]

Needs the source tree, torch, transformers, peft, accelerate, safetensors, pydantic, PyYAML and psutil, and no network.
FOLDER is a base model of lorad's or a Hugging Face folder; without one a Llama of ``SHAPES`` is made on the spot, with random
weights: they compute as fast as taught ones. Each part prints its figures as one line of JSON as soon as it has them, and what
stops it costs the others nothing. A part that would begin after ``--seconds`` is left out. ``--quick`` is for a CPU.
"""

import argparse
import contextlib
import importlib.util
import json
import os
import queue
import shutil
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).resolve().parent.parent / "src"
SPARED = ("gguf", "h11", "llguidance")
"""Packages of lorad's that nothing here calls: where one is missing, an empty module stands in for it."""
ROOM = Path("/dev/shm")  # noqa: S108 - a model is written once and read thrice
SHAPES: dict[str, dict[str, int]] = {
    "tiny": {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 4},
    "smollm2": {
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
    },
    "1b": {
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
    },
    "8b": {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
    },
}
VOCABULARY = {"tiny": 1024, "smollm2": 49152, "1b": 128256, "8b": 128256}
TEMPLATE = (
    "{% for message in messages %}{{ '<s>' + message['role'] + '\n' + message['content'] + '</s>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<s>assistant\n' }}{% endif %}"
)
ROW, ANSWER = 256, 64
"""Tokens of a trained row, and of its answer."""
SAID = 64
"""Tokens of an answer that is timed."""
RANK = 16
SEED = 7


@dataclass(frozen=True, slots=True)
class Setting:
    """What was asked for."""

    device: str
    is_quick: bool
    folder: Path
    """The base model, as lorad keeps it."""
    scratch: Path
    began: float
    seconds: float

    @property
    def shapes(self) -> tuple[int, ...]:
        """Tokens of a pass: as the default plan has it, and more."""
        return (2 * ROW,) if self.is_quick else (4 * ROW, 16 * ROW)

    @property
    def left(self) -> float:
        return self.seconds - (time.monotonic() - self.began)


def say(part: str, figures: dict[str, Any]) -> None:
    shown = {
        name: float(f"{value:.5g}") if isinstance(value, float) else value for name, value in figures.items()
    }
    print(json.dumps({"part": part, **shown}), flush=True)


def stand_in(scratch: Path) -> list[str]:
    """Write empty modules for what is missing and not called, here and in sessions; return their names."""
    missing = [name for name in SPARED if importlib.util.find_spec(name) is None]
    for name in missing:
        (scratch / f"{name}.py").write_text("def __getattr__(name):\n    return type(name, (), {})\n")
    sys.path[:0] = [str(SOURCE)]
    sys.path.append(str(scratch))
    os.environ["PYTHONPATH"] = os.pathsep.join([str(SOURCE), os.environ.get("PYTHONPATH", ""), str(scratch)])
    os.environ["HF_HUB_OFFLINE"] = "1"
    return missing


# -- a model


def tokenizer() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers  # noqa: PLC0415
    from transformers import PreTrainedTokenizerFast  # noqa: PLC0415

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet, show_progress=False
    )
    core.train_from_iterator(["system user assistant Tell me a story"] * 4, trainer)
    special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=core, chat_template=TEMPLATE, **special)


def random_llama(shape: str, device: str) -> Any:
    """Return a Llama of random weights in bfloat16, made on the device itself."""
    import torch  # noqa: PLC0415
    from transformers import LlamaConfig, LlamaForCausalLM  # noqa: PLC0415

    config = LlamaConfig(
        vocab_size=VOCABULARY[shape],
        max_position_embeddings=8192,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
        tie_word_embeddings=shape != "8b",
        **SHAPES[shape],
    )
    torch.manual_seed(SEED)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            made = LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(before)
    return made.requires_grad_(False).eval()


def keep(model: Any, folder: Path) -> Path:
    """Write a model as a base of lorad's."""
    from lorad.models import bases  # noqa: PLC0415

    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    name = bases.FINGERPRINT
    (folder / name).write_text(json.dumps(bases.measure_fingerprint(folder)))
    return folder


def given(source: Path, scratch: Path) -> Path:
    """Return a folder as lorad keeps bases."""
    from lorad.models import bases  # noqa: PLC0415

    if (source / bases.FINGERPRINT).is_file():
        return source
    bases.store_base(source, scratch / "base")
    return scratch / "base"


def load(setting: Setting, dtype: str = "bfloat16", **how: Any) -> Any:
    from lorad.models import bases, hardware  # noqa: PLC0415

    return bases.load_base(setting.folder, hardware.DTYPES[dtype], setting.device, **how)


def linear_parameters(model: Any) -> int:
    """Count the weights that a token is multiplied with in every pass: those of the layers that an adapter changes."""
    return sum(layer.in_features * layer.out_features for _, layer in linears(model))


def linears(model: Any) -> Iterator[tuple[str, Any]]:
    from torch import nn  # noqa: PLC0415

    for name, layer in model.named_modules():
        if isinstance(layer, nn.Linear) and "lm_head" not in name and "lora_" not in name:
            yield name, layer


def random_adapter(model: Any, seed: int, scale: float = 0.02) -> Any:
    """Return an adapter of random factors over all linear layers."""
    import torch  # noqa: PLC0415

    from lorad.models.adapters import Adapter  # noqa: PLC0415

    dice = torch.Generator().manual_seed(seed)

    def some(*shape: int) -> Any:
        return torch.randn(*shape, generator=dice) * scale

    return Adapter(
        {name: (some(RANK, each.in_features), some(each.out_features, RANK)) for name, each in linears(model)}
    )


# -- the machine


def synchronize(device: str) -> None:
    import torch  # noqa: PLC0415

    if device == "cuda":
        torch.cuda.synchronize()


def free(device: str) -> None:
    """Give back what the part before held, and begin counting anew."""
    import gc  # noqa: PLC0415

    import torch  # noqa: PLC0415

    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak_gib(device: str) -> float:
    from lorad.training.watcher import peak_memory  # noqa: PLC0415

    return peak_memory(device) / 2**30


_PEAK: dict[str, float] = {}


def peak_flops(setting: Setting) -> float:
    """Return how many operations a second one large product in bfloat16 makes; measured once."""
    import torch  # noqa: PLC0415

    if not _PEAK:
        size = 512 if setting.is_quick else 8192
        one, other = (torch.randn(size, size, device=setting.device).to(torch.bfloat16) for _ in range(2))
        for repeats in (3, 20):  # the first ones warm up
            synchronize(setting.device)
            began = time.perf_counter()
            for _ in range(repeats):
                one @ other
            synchronize(setting.device)
            _PEAK["flops"] = 2 * size**3 * repeats / (time.perf_counter() - began)
    return _PEAK["flops"]


def machine(setting: Setting) -> dict[str, Any]:
    import platform  # noqa: PLC0415
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415

    import torch  # noqa: PLC0415

    found: dict[str, Any] = {"python": platform.python_version()}
    for name in ("torch", "transformers", "peft", "accelerate", "safetensors", "bitsandbytes", "pydantic"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    if setting.device == "cuda":
        found |= {"card": torch.cuda.get_device_name(), "cuda": torch.version.cuda}
        found["memory_gib"] = torch.cuda.get_device_properties(0).total_memory / 2**30
    config = json.loads((setting.folder / "config.json").read_text())
    found |= {"hidden": config.get("hidden_size"), "layers": config.get("num_hidden_layers")}
    return {**found, "peak_bf16_tflops": peak_flops(setting) / 1e12}


# -- training


def plan(tokens: int, rounds: int, *, checkpointing: bool = False) -> Any:
    from lorad.records import Plan, ReplayMix, StoppingRule  # noqa: PLC0415

    return Plan(
        examples=0,
        rank=RANK,
        alpha=2 * RANK,
        epochs=rounds,
        batch=tokens // ROW,
        accumulation=1,
        max_length=ROW,
        warmup_steps=2,
        learning_rate=1e-4,
        loraplus_ratio=4.0,
        stopping=StoppingRule(recall=1.0, max_rounds=rounds, patience=rounds, min_delta=0.0),
        mix=ReplayMix(share=0.5, max_examples=100, recalled_share=0.5, general=0.0, general_weight=0.0),
        max_rank=64,
        seed=SEED,
        dtype="bfloat16",
        gradient_checkpointing=checkpointing,
        pack_tokens=tokens,
    )


def material(count: int, vocabulary: int) -> Any:
    """Return rows of random tokens: nobody answers them right, so each round trains all of them and tests none."""
    import random  # noqa: PLC0415

    from lorad.records import Encoded  # noqa: PLC0415
    from lorad.training.rehearsal import ReplayItem  # noqa: PLC0415
    from lorad.training.trainer import Material  # noqa: PLC0415

    dice = random.Random(SEED)
    rows = [Encoded(tuple(dice.choices(range(2, vocabulary), k=ROW)), ROW - ANSWER) for _ in range(count)]
    return Material(rows=rows, items=[ReplayItem(dataset="random", is_new=True, recalled=False)] * count)


def trained(model: Any, tokens: int, steps: int, **how: Any) -> tuple[Any, Any, Sequence[tuple[float, int]]]:
    """Train a fresh adapter by lorad's own trainer; return it, how it went, and when each round ended, after so many steps."""
    import torch  # noqa: PLC0415

    from lorad.models import peft_io  # noqa: PLC0415
    from lorad.tasks import find  # noqa: PLC0415
    from lorad.training import trainer  # noqa: PLC0415

    torch.manual_seed(SEED)
    wrapped = peft_io.add_lora(model, RANK, 2 * RANK)
    closed: list[tuple[float, int]] = []
    per_round = 2

    def note(line: dict[str, Any]) -> None:
        if "closed" in line:
            closed.append((line["closed"]["seconds"], per_round * line["closed"]["round"]))

    rounds = max(3, steps // per_round)
    rows = material(per_round * (tokens // ROW), model.config.vocab_size)
    try:
        outcome = trainer.train(find("chat"), wrapped, rows, plan(tokens, rounds, **how), report=note)
        return peft_io.read_live(wrapped), outcome, closed
    finally:
        peft_io.unwrap(model)


def training_figures(setting: Setting, model: Any, tokens: int, steps: int, **how: Any) -> dict[str, Any]:
    free(setting.device)
    trained(model, tokens, 2, **how)
    adapter, outcome, closed = trained(model, tokens, steps, **how)
    (first, from_step), (last, to_step) = closed[0], closed[-2]  # the last round ends with a test
    rate = (to_step - from_step) / (last - first)
    # forward, and backward to what came in: 4 for each weight of the base that stays as it is, 6 for each that learns;
    # the vocabulary is asked at answer tokens alone. Attention is left out, so that a wasteful one counts as waste
    rows = tokens // ROW
    used = tokens - rows  # the last token of a row is only predicted
    head = model.config.vocab_size * model.config.hidden_size * ANSWER * rows
    flops = 4 * linear_parameters(model) * used + 6 * adapter.parameters * used + 4 * head
    return {
        "pass_tokens": tokens,
        "steps_per_second": rate,
        "tokens_per_second": rate * tokens,
        "tflops": rate * flops / 1e12,
        "share_of_peak": rate * flops / peak_flops(setting),
        "peak_gib": peak_gib(setting.device),
        "pass_tokens_at_end": outcome.pack_tokens,
        **how,
    }


def steps_of(setting: Setting) -> int:
    return 6 if setting.is_quick else 24


def train(setting: Setting) -> None:
    """Time lorad's own trainer in bfloat16, and see whether it makes the same adapter twice."""
    from lorad.models import adapters  # noqa: PLC0415

    model = load(setting).model
    parameters = linear_parameters(model)
    for tokens in setting.shapes:
        found = training_figures(setting, model, tokens, steps_of(setting))
        say("train_bf16", {"linear_parameters": parameters, **found})
    one, other = (trained(model, setting.shapes[0], 6)[0] for _ in range(2))
    say("train_twice", {"largest_difference": adapters.difference(one, other)})
    found = training_figures(setting, model, setting.shapes[-1], steps_of(setting), checkpointing=True)
    say("train_bf16", {"linear_parameters": parameters, **found})  # last: the model keeps checkpointing


def train_quantized(setting: Setting) -> None:
    """Time the same with the base in 4 and in 8 bits."""
    if importlib.util.find_spec("bitsandbytes") is None:
        say("train_quantized", {"skipped": "bitsandbytes is not installed"})
        return
    for kind in ("4bit", "8bit"):
        free(setting.device)
        began = time.perf_counter()
        model = load(setting, quantization=kind).model
        loading = {"quantization": kind, "load_seconds": time.perf_counter() - began}
        for tokens in setting.shapes:
            say(
                "train_quantized",
                loading | training_figures(setting, model, tokens, steps_of(setting)),
            )
        del model


def train_large(setting: Setting) -> None:
    """Time a model of the size that such a card is bought for, which is never written to disk."""
    shape = "tiny" if setting.is_quick else "8b"
    model = random_llama(shape, setting.device)
    for tokens in setting.shapes:
        found = training_figures(setting, model, tokens, max(6, steps_of(setting) // 2))
        say("train_large", {"shape": shape, "linear_parameters": linear_parameters(model), **found})


# -- answering


@contextlib.contextmanager
def engine(setting: Setting, base: Any, mark: Any = None, **settings: Any) -> Iterator[Any]:
    """Yield lorad's engine over a base, with two versions loaded and the first one served, and a thread that works for it."""
    from lorad.config import EngineSettings  # noqa: PLC0415
    from lorad.models import peft_io  # noqa: PLC0415
    from lorad.serving.engine import Engine  # noqa: PLC0415
    from lorad.tasks import find  # noqa: PLC0415
    from lorad.versions import papers  # noqa: PLC0415

    asked = EngineSettings(backend="builtin", device=setting.device, calibration_check=False, **settings)
    made = Engine(asked, mark.tell, is_claimed=mark.is_claimed) if mark else Engine(asked)
    made.attach("chat", find("chat"), base)
    for number, version in enumerate(("v0.1", "v0.2")):
        folder = setting.scratch / version
        if not folder.is_dir():
            peft_io.write_adapter(random_adapter(base.model, number), folder, str(setting.folder))
        # its papers name the form that it would have been judged in
        framework = {"quantization": base.quantization}
        (folder / papers.METADATA).write_text(json.dumps({"framework": framework}))
        made.load("chat", version, folder, f"hash of {version}")
    form = made.serve("chat", "v0.1")
    can = made.capabilities("chat")
    held = {"kind": form.kind, "why": form.why_not_merged, "added_bytes": form.added_bytes}
    say("serving_form", {**held, "batches": can.batches, "because": can.because})
    ending = threading.Event()

    def work() -> None:
        while not ending.is_set():
            made.work(0.02)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield made
    finally:
        ending.set()
        thread.join()
        made.close()


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer: the tokens, seconds to the first piece and to the end, the longest wait between two pieces."""

    version: str
    tokens: int
    first: float
    seconds: float
    pause: float


def ask(made: Any, number: int, tokens: int = SAID) -> Answered:
    from lorad.serving.requests import Sampling  # noqa: PLC0415

    began = last = time.perf_counter()
    question = [{"role": "user", "content": f"Tell me a long story about the number {number}."}]
    request = made.submit("chat", question, Sampling(max_tokens=tokens, temperature=0.0))
    first, pause, count = 0.0, 0.0, 0
    for chunk in request.answer():
        now = time.perf_counter()
        first, pause, last = first or now - began, max(pause, now - last), now
        count = max(count, chunk.answer_tokens)
    return Answered(request.version, count, first, last - began, pause)


def ask_all(made: Any, count: int, clients: int) -> tuple[list[Answered], list[str], float]:
    """Ask so many questions from so many threads; return the answers, what failed, and the seconds."""
    numbers: queue.Queue[int] = queue.Queue()
    for number in range(count):
        numbers.put(number)
    found, failed = list[Answered](), list[str]()

    def client() -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                number = numbers.get_nowait()
                try:
                    found.append(ask(made, number))
                except Exception as error:  # noqa: BLE001 - counted
                    failed.append(f"{type(error).__name__}: {error}"[:200])

    threads = [threading.Thread(target=client) for _ in range(clients)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found, failed, time.perf_counter() - began


def answering_figures(made: Any, count: int, clients: int) -> dict[str, Any]:
    found, failed, seconds = ask_all(made, count, clients)
    firsts = sorted(each.first for each in found) or [0.0]
    return {
        "clients": clients,
        "answers": len(found),
        "failed": len(failed),
        "why": failed[:1],
        "answers_per_second": len(found) / seconds,
        "tokens_per_second": sum(each.tokens for each in found) / seconds,
        "first_token_ms": 1000 * firsts[len(firsts) // 2],
    }


def serve(setting: Setting) -> None:
    """Time the built-in engine for one client and for sixteen."""
    base = load(setting)
    with engine(setting, base) as made:
        ask(made, 0)
        for clients, count in ((1, 8), (16, 64)):
            say("serve_bf16", answering_figures(made, 3 if setting.is_quick else count, clients))
    say("serve_bf16", {"peak_gib": peak_gib(setting.device)})


def serve_quantized(setting: Setting) -> None:
    """Time the same over a base in 4 bits, where the adapter stays beside the layers."""
    if importlib.util.find_spec("bitsandbytes") is None:
        say("serve_quantized", {"skipped": "bitsandbytes is not installed"})
        return
    base = load(setting, quantization="4bit")
    with engine(setting, base) as made:
        ask(made, 0)
        for clients, count in ((1, 4), (16, 32)):
            say("serve_quantized", answering_figures(made, 2 if setting.is_quick else count, clients))
    say("serve_quantized", {"peak_gib": peak_gib(setting.device)})


# -- a swap while a session trains


def swap(setting: Setting) -> None:
    """Change what serves again and again while clients ask, alone and beside a session in a process of its own."""
    from lorad.storage.busy_mark import BusyMark  # noqa: PLC0415

    base, mark = load(setting), BusyMark()
    with engine(setting, base, mark) as made:
        ask(made, 0)
        say("swap", {"beside": "nothing", **swap_figures(setting, made)})
        running, folder = session(setting, mark)
        try:
            phase = wait_for_training(running, folder, min(90.0, setting.left - 30))
            say("swap", {"session": phase, **tokens_alone(folder, setting)})
            before, began = progress(folder), time.perf_counter()
            found = swap_figures(setting, made)
            after, seconds = progress(folder), time.perf_counter() - began
            trained_tokens = (after.get("tokens") or 0) - (before.get("tokens") or 0)
            beside = {"session_tokens_per_second": trained_tokens / seconds, "session": after.get("phase")}
            say("swap", {"beside": "a session", **found, **beside, "session_peak_gib": after.get("peak_gib")})
        finally:
            running.stop()
            mark.close()


def swap_figures(setting: Setting, made: Any) -> dict[str, Any]:
    """Let eight clients ask, and swap ten times meanwhile."""
    swaps, took = (3 if setting.is_quick else 10), list[float]()
    ending = threading.Event()

    def change() -> None:
        for number in range(swaps):
            began = time.perf_counter()
            made.serve("chat", "v0.2" if number % 2 == 0 else "v0.1")
            took.append(time.perf_counter() - began)
            if ending.wait(0.2):
                return

    changing = threading.Thread(target=change)
    changing.start()
    found, failed, seconds = ask_all(made, 6 if setting.is_quick else 64, 2 if setting.is_quick else 8)
    ending.set()
    changing.join()
    return {
        "swaps": len(took),
        "swap_ms_worst": 1000 * max(took),
        "answers_per_second": len(found) / seconds,
        "failed": len(failed),
        "why": failed[:1],
        "longest_pause_ms": 1000 * max((each.pause for each in found), default=0.0),
        "versions": sorted({each.version for each in found}),
    }


def session(setting: Setting, mark: Any) -> tuple[Any, Any]:
    """Start a session as the daemon starts it."""
    from lorad.config import Settings  # noqa: PLC0415
    from lorad.records import Example, SessionSpec  # noqa: PLC0415
    from lorad.training.executors.local import LocalExecutor  # noqa: PLC0415
    from lorad.training.run_folder import RunFolder  # noqa: PLC0415

    settings = Settings()
    training = settings.training.model_dump() | {"device": setting.device, "merge_adapters_on_save": False}
    spec = SessionSpec(
        job=1,
        track="chat",
        task="chat",
        kind="learn",
        dataset="random",
        base=str(setting.folder),
        parent=None,
        parent_version=None,
        # it computes as any session does, and learns too slowly to end
        plan=replace(plan(2 * ROW, 10_000), batch=2, accumulation=4, learning_rate=1e-9),
        settings={"training": training, "judge": settings.judge.model_dump(), "resolved": {}},
    )
    examples = [
        Example(
            task="chat",
            input=[{"role": "user", "content": f"What is the number of door {number}?"}],
            target=f"It is {number * 7919 % 1000}.",
            dataset="random",
            line=number + 1,
        )
        for number in range(64)
    ]
    folder = RunFolder(setting.scratch / "session")
    folder.begin(spec, examples, [])
    return LocalExecutor(nice=0, mark=mark).start(folder), folder


def progress(folder: Any) -> dict[str, Any]:
    found: dict[str, Any] = folder.progress()
    return found


def wait_for_training(running: Any, folder: Any, limit: float) -> str:
    until = time.monotonic() + limit
    while time.monotonic() < until:
        told = progress(folder)
        if told.get("tokens"):
            break
        status = running.poll(time.monotonic())
        if status is not None:
            return f"it ended with {status}: {folder.failure(status).message}"[:400]
        time.sleep(0.2)
    return str(progress(folder).get("phase"))


def tokens_alone(folder: Any, setting: Setting) -> dict[str, Any]:
    before, began = progress(folder).get("tokens") or 0, time.perf_counter()
    time.sleep(2 if setting.is_quick else 5)
    made = (progress(folder).get("tokens") or 0) - before
    return {"session_tokens_per_second_alone": made / (time.perf_counter() - began)}


# -- exactness


def exact(setting: Setting) -> None:
    """Compare a merged base with an adapter beside the layers, and two adapters with their concatenation."""
    for dtype in ("float32", "bfloat16"):
        say("exact", {"dtype": dtype, **differences(load(setting, dtype), setting)})


def exact_quantized(setting: Setting) -> None:
    """Compare two adapters with their concatenation on a base in 4 bits, and its weights with those made on the CPU."""
    if importlib.util.find_spec("bitsandbytes") is None:
        say("exact_quantized", {"skipped": "bitsandbytes is not installed"})
        return
    for kind in ("4bit", "8bit"):
        base = load(setting, quantization=kind)
        found = differences(base, setting, can_merge=False)
        if setting.device == "cuda" and not setting.is_quick:
            found |= alike_on_cpu(base, setting, kind)
        say("exact_quantized", {"quantization": kind, **found})


def differences(base: Any, setting: Setting, *, can_merge: bool = True) -> dict[str, Any]:
    import torch  # noqa: PLC0415

    from lorad.models import adapters, merged_model, peft_io  # noqa: PLC0415
    from lorad.models.adapter_stack import AdapterStack  # noqa: PLC0415

    one, other = random_adapter(base.model, 1), random_adapter(base.model, 2)
    folder = setting.scratch / "both"
    shutil.rmtree(folder, ignore_errors=True)
    peft_io.write_adapter(adapters.concatenate(one, other), folder, str(setting.folder))
    stack = AdapterStack(base)
    stack.add("both", folder)
    dice = torch.Generator().manual_seed(SEED)
    tokens = torch.randint(2, base.model.config.vocab_size, (4, 128), generator=dice).to(setting.device)

    def logits(model: Any) -> Any:
        with torch.inference_mode():
            return model(input_ids=tokens, use_cache=False).logits.float()

    pristine, beside = logits(base.model), logits(stack.model("both"))
    found = {
        "moved": float((beside - pristine).abs().max()),
        "reload": adapters.difference(stack.read("both"), adapters.concatenate(one, other)),
    }

    def compared(name: str, said: Any) -> None:
        found[name] = float((said - beside).abs().max())
        found[f"{name}_same_token"] = float((said.argmax(-1) == beside.argmax(-1)).float().mean())

    if can_merge:
        compared("merged", logits(merged_model.merged(base.model, stack.read("both"))))
    import peft  # noqa: PLC0415

    side_by_side = peft.PeftModel.from_pretrained(base.model, str(folder))
    compared("plain_peft", logits(side_by_side))
    peft_io.unwrap(base.model)
    found["base_untouched"] = float((logits(base.model) - pristine).abs().max())
    return found


def alike_on_cpu(base: Any, setting: Setting, kind: str) -> dict[str, Any]:
    """Tell whether the first layer quantised on the CPU is the same."""
    import torch  # noqa: PLC0415

    from lorad.models import bases, hardware  # noqa: PLC0415

    other = bases.load_base(setting.folder, hardware.DTYPES["bfloat16"], "cpu", quantization=kind)
    name, ours = next(linears(base.model))
    theirs = other.model.get_submodule(name)
    same = (ours.weight.data.cpu().flatten() == theirs.weight.data.flatten()).float().mean()
    return {"same_bytes_as_cpu": float(same), "cpu_dtype": str(torch.bfloat16)}


PARTS: dict[str, tuple[Callable[[Setting], None], float]] = {
    "train": (train, 0),
    "serve": (serve, 0),
    "exact": (exact, 0),
    "train_quantized": (train_quantized, 0),
    "swap": (swap, 60),
    "train_large": (train_large, 20),
    "serve_quantized": (serve_quantized, 20),
    "exact_quantized": (exact_quantized, 15),
}
"""Each with the seconds that must be left for it."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "folder", nargs="?", type=Path, help="a base model; without one a random Llama is made"
    )
    parser.add_argument(
        "--shape", choices=SHAPES, help="of the random Llama (default: 1b, with --quick tiny)"
    )
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu", "mps"))
    parser.add_argument("--quick", action="store_true", help="sizes for a CPU: it shows that all parts run")
    parser.add_argument("--only", nargs="*", choices=PARTS, default=[*PARTS])
    parser.add_argument("--seconds", type=float, default=240.0, help="no part begins after this")
    options = parser.parse_args()
    began = time.monotonic()
    place = ROOM if ROOM.is_dir() and not options.quick else None
    with tempfile.TemporaryDirectory(dir=place) as scratch:
        missing = stand_in(Path(scratch))
        try:
            from lorad.models import hardware  # noqa: PLC0415

            hardware.quieten()
            if options.folder:
                folder = given(options.folder, Path(scratch))
            else:
                shape = options.shape or ("tiny" if options.quick else "1b")
                folder = keep(random_llama(shape, options.device), Path(scratch) / "base")
        except Exception as error:  # noqa: BLE001 - nothing can run then
            say("failed", {"what": "making the model", "error": f"{type(error).__name__}: {error}"[:600]})
            traceback.print_exc()
            return
        setting = Setting(options.device, options.quick, folder, Path(scratch), began, options.seconds)
        say("begun", {"stood_in_for": missing, "seconds": time.monotonic() - began})
        run("machine", lambda asked: say("machine", machine(asked)), setting)
        for name in options.only:
            run(name, PARTS[name][0], setting, PARTS[name][1])
        say("ended", {"seconds": time.monotonic() - began})


def run(name: str, act: Callable[[Setting], None], setting: Setting, needed: float = 0) -> None:
    """Run one part; whatever stops it is said and stops nothing else."""
    if setting.left < needed:
        say(name, {"skipped": f"{setting.left:.0f} s are left"})
        return
    began = time.monotonic()
    try:
        free(setting.device)
        act(setting)
    except Exception as error:  # noqa: BLE001 - a part costs nothing of the others
        say(name, {"failed": f"{type(error).__name__}: {error}"[:600]})
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            free(setting.device)
    say(name, {"part_seconds": time.monotonic() - began})


if __name__ == "__main__":
    main()
