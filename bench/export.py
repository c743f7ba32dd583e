"""Whether what a version was taught comes back from its GGUF by the prompts that other programs make.

    python bench/export.py [--fresh] [--home HOME] [--base FOLDER --dataset FILE --smoke]

A version learns campus_cs.json on SmolLM2 in a real session (or is the latest of HOME), is exported as GGUF, and is
asked every question once: by lorad's own prompt, by the prompt that Ollama makes with the Modelfile, by the one that the
Modelfile made before it was compared with the base's template (ChatML by hand), and, where llama-cpp-python is
installed, by llama.cpp's own chat completion. A short try on another base: --base, --dataset and --smoke, which
prints and publishes nothing.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

import learn
import report
from lorad.config import load_settings
from lorad.datasets import reader
from lorad.home import Home
from lorad.models import bases, generation, hardware, peft_io
from lorad.records import Example
from lorad.storage import files
from lorad.training import planner
from lorad.versions import export, llamacpp, modelfile
from lorad.versions.store import Registry

PLACE = report.CACHE / "export"
ARMS = ("template", "modelfile", "former_modelfile", "llamacpp")
SPARE = 16
"""Tokens more than the longest taught answer: what does not end there has not come back."""
NOTES = (
    "Whether the 106 facts of campus_cs.json come back, exactly and greedily, from the GGUF that `lorad export` writes:",
    "`template_recall` by the base's own chat template, `modelfile_recall` by the prompt that Ollama makes with the",
    "Modelfile (rendered by lorad after Ollama's rules; both answered by transformers), `former_modelfile_recall` by the",
    "Modelfile that was written by hand before, `llamacpp_recall` by the chat completion of llama-cpp-python.",
)


def learned(base: Path, dataset: Path, examples: Sequence[Example]) -> Path:
    """Return a version of the dataset, learned once in one session as the daemon starts it."""
    folder = PLACE / dataset.stem
    version = folder / "v0.1"
    if not version.exists():
        shutil.rmtree(folder, ignore_errors=True)
        tokenizer = AutoTokenizer.from_pretrained(base)
        plan = planner.plan(
            lengths=[len(learn.TASK.encode(tokenizer, example)) for example in examples],
            shape=bases.shape(base),
            machine=hardware.machine(),
            planner=learn.SETTINGS.planner,
            rehearsal=learn.SETTINGS.rehearsal,
            training=learn.SETTINGS.training,
        )
        candidate, _ = learn.session(folder, base, plan, examples)
        candidate.rename(version)
    return version


def exported(version: Path, base: Path) -> Path:
    """Return the folder of a version's GGUF and Modelfile."""
    target = PLACE / "exported"
    shutil.rmtree(target, ignore_errors=True)
    for note in export.export(version, base, target, "gguf").notes:
        print(note, flush=True)
    return target


def former(example: Example) -> str:
    """Return the prompt of the Modelfile that was written by hand: ChatML without the base's system message."""
    turn = "<|im_start|>{role}\n{content}<|im_end|>\n"
    return "".join(turn.format(**message) for message in example.input) + "<|im_start|>assistant\n"


def by_transformers(
    folder: Path, base: Path, examples: Sequence[Example], ask: Callable[[Any, Example], list[int]]
) -> list[bool]:
    """Answer every question from the GGUF as transformers reads it."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = export._read_gguf(folder, base)
    ends = list(learn.TASK.stop_tokens(tokenizer))
    right = []
    for begin in range(0, len(examples), generation.TOGETHER):
        some = examples[begin : begin + generation.TOGETHER]
        prompts = [ask(tokenizer, example) for example in some]
        said = generation.continue_each(model, prompts, ends, longest(tokenizer, examples), do_sample=False)
        texts = [learn.TASK.text(tokenizer, tokens) for tokens in said]
        right += [text == example.target for text, example in zip(texts, some, strict=True)]
        print(f"  {sum(right)} of {len(right)}", flush=True)
    return right


def by_llamacpp(folder: Path, base: Path, examples: Sequence[Example]) -> list[bool]:
    """Answer every question by llama.cpp's chat completion, which stops where it sees fit."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    (file,) = folder.glob("*.gguf")
    asked = max(len(learn.TASK.encode(tokenizer, example)) for example in examples)
    right = []
    with llamacpp.opened(file, asked + 2 * SPARE) as llama:
        for example in examples:
            said = llama.create_chat_completion(
                example.input, max_tokens=longest(tokenizer, examples), temperature=0.0
            )
            right.append(said["choices"][0]["message"]["content"] == example.target)
            print(f"  {sum(right)} of {len(right)}", flush=True)
    return right


def longest(tokenizer: Any, examples: Sequence[Example]) -> int:
    return SPARE + max(len(learn.TASK.encode(tokenizer, example).target) for example in examples)


def measure(arm: str, folder: Path, base: Path, dataset: Path) -> list[bool]:
    examples = reader.read(dataset, learn.SETTINGS.inbox).examples
    text = (folder / modelfile.NAME).read_text(encoding="utf-8")
    asked: dict[str, Callable[[Any, Example], list[int]]] = {
        "template": lambda tokenizer, example: learn.TASK.prompt(tokenizer, example.input),
        "modelfile": lambda tokenizer, example: modelfile.tokens(
            tokenizer, modelfile.render(text, example.input)
        ),
        "former_modelfile": lambda tokenizer, example: modelfile.tokens(tokenizer, former(example)),
    }
    if arm == "llamacpp":
        return by_llamacpp(folder, base, examples)
    return by_transformers(folder, base, examples, asked[arm])


def find_version(options: argparse.Namespace) -> tuple[Path, Path]:
    """Return a version and its base: a home's latest, or one that is learned here."""
    if options.home:
        home = Home(options.home.resolve())
        registry = Registry(home.track("chat"))
        return registry.path(registry.latest), home.base(load_settings(home).track("chat").base)
    base = options.base or learn.base_folder()
    return learned(base, options.dataset, reader.read(options.dataset, learn.SETTINGS.inbox).examples), base


def figures_of(options: argparse.Namespace) -> dict[str, Any]:
    version, base = find_version(options)
    folder = exported(version, base)
    which = files.file_digest(version / peft_io.ADAPTER_FILES[1])[:12]
    figures: dict[str, Any] = {"facts": 0}
    for arm in ARMS:
        if arm == "llamacpp" and not llamacpp.is_installed():
            print("llama-cpp-python is not installed; not tried")
            continue
        command = [__file__, "--arm", arm, "--base", str(base), "--dataset", str(options.dataset)]
        command += ["--exported", str(folder)]
        right = report.arm(f"export-{which}-{arm}", command, fresh=options.fresh)["right"]
        figures |= {
            "facts": len(right),
            f"{arm}_recalled": sum(right),
            f"{arm}_recall": round(sum(right) / len(right), 4),
        }
    return figures


def draw(figures: dict[str, Any]) -> None:
    """Draw the share of facts that come back, an arm a bar."""
    plt = report.pyplot()
    figure, axes = plt.subplots(figsize=(7, 2.2))
    shares = {arm: figures[f"{arm}_recall"] for arm in ARMS if f"{arm}_recall" in figures}
    bars = axes.barh(list(shares), list(shares.values()), color="#4c72b0")
    axes.bar_label(bars, [f"{share:.1%}" for share in shares.values()], padding=4)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.1)
    axes.set_xlabel(f"share of {figures['facts']} facts that come back exactly")
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(report.RESULTS / "export.png", dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fresh", action="store_true", help="learn and ask again")
    parser.add_argument("--home", type=Path, help="take the latest version of this home")
    parser.add_argument("--base", type=Path, help="a stored base model; else SmolLM2")
    parser.add_argument("--dataset", type=Path, default=learn.DATASET)
    parser.add_argument("--smoke", action="store_true", help="print the figures and publish nothing")
    parser.add_argument("--arm", choices=ARMS)
    parser.add_argument("--exported", type=Path)
    parser.add_argument("out", nargs="?", type=Path)
    options = parser.parse_args()
    hardware.quieten()
    torch.manual_seed(0)
    if options.arm:
        right = measure(options.arm, options.exported, options.base, options.dataset)
        options.out.write_text(json.dumps({"right": right}), encoding="utf-8")
        return
    if options.fresh:
        shutil.rmtree(PLACE, ignore_errors=True)
    figures = figures_of(options)
    if options.smoke:
        json.dump(figures, sys.stdout, indent=2)
    else:
        draw(figures)
        report.save("export", figures, NOTES)
        print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
