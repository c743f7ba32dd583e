"""What is kept over five and over twenty drops on SmolLM2: lorad beside five other ways of going on learning.

    python bench/retention.py [--minutes 55] [--only short|long|short-c-1] [--fresh]

Arms: (a) the seed's literal recipe: the base with the last session's own adapter alone, a fresh LoRA, the table's
epochs; (b) all adapters merged, 12 epochs; both without rehearsal, every row every epoch; (c) lorad, a session as
the daemon runs it, whose candidate becomes the parent only if promoted; (d) everything jointly from the base until
0.97, the ceiling; (e) a refit from the base on everything at each drop; (f) SLAO (Qiao and Mahdavi 2025,
arXiv 2512.23017), a published way without rehearsal: one adapter that begins each drop where the last one ended, A made
orthonormal, and whose B are averaged; 12 epochs as (b). All train with lorad's own code and plans.

Short run: five drops of 60 facts from five real domains, (c) with three seeds. Long run: twenty drops of 25, (b),
(c), (e); a refit stands alone, so (e) is made at drops 1, 5, 10 and 20 only. A step is one drop of one arm, in a process
of its own; finished steps lie in ``cache/retention/`` and are never made again. When the minutes are used up it
writes what there is; run it again to go on. Figures of arms that are done, and of refits, are taken from
``results/retention.steps.json`` on a machine that has no cache; an arm that was cut off in the middle starts anew.
"""

import argparse
import json
import math
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import AutoTokenizer

import domains
import report
from learn import base_folder
from lorad import records
from lorad.config import Settings
from lorad.evaluation import general_ability, judge, metrics
from lorad.evaluation.retention import summarise
from lorad.models import adapter_stack, adapters, bases, hardware, peft_io
from lorad.records import Example, Plan, ReplayMix, SessionSpec, StoppingRule
from lorad.storage import files
from lorad.storage.memory import Recalled
from lorad.tasks import find
from lorad.training import distillation, planner, session, trainer
from lorad.training.run_folder import RunFolder, as_row, from_row
from lorad.versions import papers

Datasets = list[tuple[str, list[Example], list[Example]]]
"""Name, trained rows and held-out paraphrases of each."""
CalibrationMetrics = dict[str, Any]

SETTINGS = Settings.model_validate({"training": {"merge_adapters_on_save": False, "dtype": "float32"}})
"""The disk would not hold merged copies; and what is learned must not hang on which machine has bfloat16."""
BASE = report.CACHE / "home" / "models" / "base" / "smollm2"
MERGED_EPOCHS = 12
CEILING = 0.97
SECONDS_PER_ROW = 3.0
"""A guess at a refit's time, where none was made before."""
OVERTIME = 4
"""Minutes that a step may go on after the command's time before it is given up."""
CYCLE = len(domains.DOMAINS)
"""Drops after which the same domain comes again."""
REFITTED = (1, 5, 10, 20)
"""Drops of the long run at which (e) is made: its time about doubles from one to the next."""
PLAIN = ReplayMix(share=0.5, max_examples=2000, recalled_share=1.0, general=0.0)
"""Every row every epoch, no general conversation."""
LABELS = {
    "a": "(a) only the previous adapter merged",
    "b": "(b) all merged, no rehearsal",
    "c": "(c) lorad",
    "d": "(d) joint (ceiling)",
    "e": "(e) refit at each drop",
    "f": "(f) SLAO",
}
NOTES = (
    "Aims of (c): acc5 >= 0.97, bwt5 >= -0.005, worst_drop5 <= 1, paraphrase_gap5 (to the joint arm) <= 0.02,",
    "perplexity_rise5 <= 0.02, acc20 >= 0.95, cost_ratio20 <= 2. Keys end with the number of drops; another arm's letter",
    "stands in front. Over seeds: means, of worst_drop (examples, from a dataset's best) and peak_gib the largest.",
    "cycle_ratio: the last five sessions' seconds to the first five's, so that the same domains stand on both sides.",
    "seconds: of (c) the whole session with tests, judge and repairs, of the others the training alone. Arms with an",
    "asterisk were made on a newer processor (AVX-512 with bfloat16), the others on one without: the first drop of (b)'s",
    "short run, the same work, took 107 s on the one and 148 s on the other. So compare seconds within an arm.",
    "e_seconds20 is of its four refits.",
)


class Run(NamedTuple):
    """A row of drops, and the arms with their seeds that go through it."""

    name: str
    drops: int
    rows: int
    arms: tuple[str, ...]


class Step(NamedTuple):
    """One drop of one arm; (d) trains once, on all drops."""

    run: Run
    arm: str
    seed: int
    drop: int

    def __str__(self) -> str:
        return f"{self.run.name}-{self.arm}-{self.seed}/drop-{self.drop:02d}"

    def folder(self) -> Path:
        """Return where the finished step lies."""
        return report.CACHE / "retention" / str(self)

    def before(self) -> "Step | None":
        """Return the arm's previous step."""
        return self._replace(drop=self.drop - 1) if self.drop > 1 and self.arm not in "de" else None

    def figures(self) -> CalibrationMetrics | None:
        """Return what was measured, if the step is finished."""
        path = self.folder() / "figures.json"
        return files.read_json(path) if path.exists() else self._recorded()

    def _recorded(self) -> CalibrationMetrics | None:
        arm = [str(step) for step in STEPS if step[:3] == self[:3]]
        if self.arm in "de" or all(name in RECORDED for name in arm):
            return RECORDED.get(str(self))
        return None


RUNS = (
    Run("short", 5, 60, ("c1", "d1", "b1", "a1", "e1", "f1", "c2", "c3")),
    Run("long", 20, 25, ("c1", "b1", "e1")),
)
STEPS = [
    Step(run, arm[0], int(arm[1]), drop)
    for run in RUNS
    for arm in run.arms
    for drop in range(run.drops if arm == "d1" else 1, run.drops + 1)
    if arm != "e1" or run.drops == 5 or drop in REFITTED
]
RECORDS = report.RESULTS / "retention.steps.json"
RECORDED: dict[str, CalibrationMetrics] = files.read_json(RECORDS) if RECORDS.exists() else {}


# -- one step, in a child process


class Plainly(session.Session):
    """A session without judge, repair and old examples: what the other arms are made of."""

    def learn(self) -> session.TrainingResult:
        """Merge the parent, if there is one, and train a fresh adapter on the new rows."""
        session.set_seed(self.spec.plan.seed)
        parent = peft_io.read_adapter(Path(self.spec.parent)) if self.spec.parent else None
        start = self._prepare(parent, self.spec.plan)
        return self._train(start, self._examples(start.base), self.spec.plan)

    def warm(self) -> None:
        """Let the base say its general conversation, once for all arms, outside anybody's time."""
        super()._general(self._load())

    def _general(self, base: bases.Base) -> distillation.General:
        return super()._general(base) if self.spec.plan.mix.general else distillation.General([], [])


class Slao(Plainly):
    """Training goes on in one adapter on the untouched base, beginning orthogonally; its average is what counts."""

    def __init__(self, folder: RunFolder, spec: SessionSpec, previous: Path, number: int) -> None:
        super().__init__(folder, spec)
        self._tuned = peft_io.read_adapter(previous / "own") if number > 1 else None
        self._merged = peft_io.read_adapter(previous / "adapter") if number > 1 else None
        self._number = number

    def learn(self) -> session.TrainingResult:
        """Train on from the last drop, keep that for the next one, and return the average."""
        made = super().learn()
        peft_io.write_adapter(made.adapter, self.folder.path / "own", self.spec.base)
        if self._merged is None:
            return made
        return replace(made, adapter=average(self._merged, made.adapter, self._number))

    def _fresh_lora(self, base: bases.Base, plan: Plan) -> Any:
        model = super()._fresh_lora(base, plan)
        with torch.no_grad():
            for name, (a, b) in self._tuned.factors.items() if self._tuned else ():
                layer = model.get_submodule(peft_io.PREFIX + name)
                layer.lora_A["default"].weight.copy_(orthonormal(a))
                layer.lora_B["default"].weight.copy_(b / layer.scaling["default"])
        return model


def orthonormal(a: torch.Tensor) -> torch.Tensor:
    """Return rows that are orthonormal and span what ``a``'s rows do; signs so that a row keeps its direction."""
    q, r = torch.linalg.qr(a.T)
    return (q * r.diagonal().sign()).T.contiguous()


def average(merged: adapters.Adapter, tuned: adapters.Adapter, number: int) -> adapters.Adapter:
    """Return SLAO's merged adapter after a number of drops: the newest A, and B moved by one over its root."""
    pairs = {}
    for name, (a, b) in tuned.factors.items():
        old = merged.factors[name][1]
        pairs[name] = (a, old + (b - old) / math.sqrt(number))
    return adapters.Adapter(pairs)


def data(run: Run) -> Iterator[tuple[str, list[Example], list[Example]]]:
    """Yield name, trained rows and paraphrases of a run's datasets."""

    def example(dataset: str, question: str, answer: str) -> Example:
        asked = [{"role": "user", "content": question}]
        return Example(task="chat", input=asked, target=answer, dataset=dataset)

    names = [domains.DOMAINS[number % len(domains.DOMAINS)] for number in range(run.drops)]
    drops = domains.drops([(name, run.rows) for name in names], 0, cache=domains.CACHE)
    for number, facts in enumerate(drops):
        name = f"{number + 1:02d}-{names[number]}"
        trained = [example(name, fact.input, fact.target) for fact in facts]
        yield name, trained, [example(name, fact.paraphrase, fact.target) for fact in facts]


def decide(arm: str, rows: Sequence[Example], settings: Settings, drift: float = 0.0) -> Plan:
    """Return the planner's plan for these rows on a parent that drifted so far, changed as the arm demands."""
    tokenizer = AutoTokenizer.from_pretrained(str(BASE), local_files_only=True)
    plan = planner.plan(
        lengths=[len(find("chat").encode(tokenizer, example)) for example in rows],
        shape=bases.shape(BASE),
        machine=hardware.machine(),
        planner=settings.planner,
        rehearsal=settings.rehearsal,
        training=settings.training,
        drift=drift,
    )
    if arm in {"a", "b", "f"}:
        epochs = plan.epochs if arm == "a" else MERGED_EPOCHS
        never = StoppingRule(recall=2.0, max_rounds=epochs, patience=epochs, min_delta=0.01)
        return replace(plan, stopping=never, mix=PLAIN, max_rank=sys.maxsize)  # sums are never cut
    return replace(plan, stopping=replace(plan.stopping, recall=CEILING)) if arm == "d" else plan


def make(step: Step) -> None:
    """Train and measure one step; its folder appears whole or not at all."""
    began = time.perf_counter()
    training = SETTINGS.training.model_copy(update={"seed": SETTINGS.training.seed + step.seed - 1})
    settings = SETTINGS.model_copy(update={"training": training})
    folder = step.folder().with_suffix(".part")
    files.remove(folder)
    folder.mkdir(parents=True)
    before = step.before()
    previous = before.folder() if before else folder  # the first step finds nothing in its own folder
    sets = list(data(step.run))[: step.drop]
    new = [example for _, rows, _ in sets[0 if step.arm in "de" else -1 :] for example in rows]
    old = [from_row(row) for row in files.read_lines(previous / "learned.jsonl")]  # only (c) leaves it
    parent = previous / ("own" if step.arm == "a" else "adapter")
    spec = SessionSpec(
        job=step.drop,
        track="chat",
        task="chat",
        kind="learn",
        dataset=sets[-1][0],
        base=str(BASE),
        parent=str(parent) if parent.exists() and step.arm not in "ef" else None,
        parent_version=None,
        plan=decide(step.arm, new, settings, drifted(parent, settings) if step.arm == "c" else 0.0),
        settings=settings.model_dump(mode="json")
        | {"resolved": {}, "answering": None},  # facts have a bench of their own
    )
    run = RunFolder(folder)
    run.begin(spec, new, old)
    plainly = Slao(run, spec, previous, step.drop) if step.arm == "f" else Plainly(run, spec)
    plainly.warm()
    started = time.perf_counter()
    if step.arm == "c":
        session.Session(run, spec).run()
    else:
        made = plainly.learn()
        peft_io.write_adapter(made.adapter, folder / "adapter", spec.base)  # as served: with its parent
    figures: CalibrationMetrics = {"seconds": round(time.perf_counter() - started, 2)}
    figures["peak_gib"] = round(trainer.peak_memory(hardware.machine().device) / 2**30, 3)
    if step.arm == "c":
        figures |= settle(run, previous, old)
    else:
        if step.arm == "a":
            rank = spec.plan.rank  # the fresh adapter stands behind its parent, see adapters.concatenate
            own = {name: (a[-rank:], b[:, -rank:]) for name, (a, b) in made.adapter.factors.items()}
            peft_io.write_adapter(adapters.Adapter(own), folder / "own", spec.base)
        figures |= {"rounds": len(made.outcome.history), "ended_by": made.outcome.ended_by}
    figures |= measure(folder / "adapter", spec, sets)
    figures |= {
        "wall": round(time.perf_counter() - began, 2),
        "commit": report.provenance()["commit"],
        "processor": torch.backends.cpu.get_cpu_capability(),
        "plan": records.as_json(spec.plan),
    }
    files.write_json(folder / "figures.json", figures)
    folder.rename(step.folder())


def drifted(parent: Path, settings: Settings) -> float:
    """Return how far (c)'s parent has drifted, as the daemon reads it from its evaluation; 0 for the base."""
    if not parent.exists():
        return 0.0
    return judge.drift(papers.read_result(parent).evaluation, settings.judge)


def settle(run: RunFolder, previous: Path, old: list[Recalled]) -> CalibrationMetrics:
    """Treat a candidate as the daemon does: promoted, it is the parent of the next; refused, it counts for nothing."""
    result = run.result()
    if result.verdict.promote:
        run.candidate.rename(run.path / "adapter")
        rows = [*(item.example for item in old), *run.new()]
        old = [Recalled(example=row, right=result.right.get(row.id, False)) for row in rows]
    elif (previous / "adapter").exists():
        shutil.copytree(previous / "adapter", run.path / "adapter")
    files.write_lines(run.path / "learned.jsonl", [as_row(item) for item in old])
    said = {key: getattr(result.evaluation, key) for key in ("repairs", "notes", "ended_by")}
    return {**records.as_json(result.verdict), **said}


def measure(adapter: Path, spec: SessionSpec, sets: Datasets) -> CalibrationMetrics:
    """Ask everything so far, in trained and in held-out wording, of the adapter reloaded onto the pristine base."""
    base = bases.load_base(Path(spec.base), hardware.DTYPES[spec.plan.dtype], hardware.machine().device)
    stack = adapter_stack.AdapterStack(base)
    if adapter.exists():
        stack.add("version", adapter)
    figures: CalibrationMetrics = {"trained": {}, "paraphrases": {}}
    with stack.use(None) as model:
        figures["perplexity_base"] = general_ability.perplexity(model, base.tokenizer)
    with stack.use("version" if adapter.exists() else None) as model:
        figures["perplexity"] = general_ability.perplexity(model, base.tokenizer)
        for name, trained, paraphrases in sets:
            for kind, rows in (("trained", trained), ("paraphrases", paraphrases)):
                encoded = [find("chat").encode(base.tokenizer, example) for example in rows]
                right = metrics.recalled(find("chat"), model, encoded)
                figures[kind][name] = [sum(right), len(right)]
    return figures


# -- all steps, within the minutes


def advance(steps: Sequence[Step], minutes: float) -> None:
    """Make pending steps one after another while they fit; the first one is begun in any case."""
    began = time.perf_counter()
    for number, step in enumerate(step for step in steps if not step.figures()):
        left = 60 * minutes - (time.perf_counter() - began)
        known = before.figures() if (before := step.before()) else None
        guess = 1.25 * known["wall"] if known else 60 + SECONDS_PER_ROW * step.run.rows * step.drop
        if number and guess > left:
            continue
        print(f"running {step} …", flush=True)
        child = [sys.executable, __file__, "--step", str(step)]
        try:
            subprocess.run(child, check=True, timeout=left + 60 * OVERTIME)
        except subprocess.TimeoutExpired:
            print(f"{step} took too long and was given up; give it more --minutes", flush=True)
            return
        found = step.figures() or {}
        recall, seconds = mean(found, "trained"), found["seconds"]
        print(f"  recall {recall:.3f}, {seconds:.0f} s, {found['ended_by']}", flush=True)


# -- what came of it


def label(arm: str, history: dict[int, CalibrationMetrics]) -> str:
    """Return an arm's name, with an asterisk where NOTES say something of its seconds."""
    is_faster = any(line.get("processor") == "AVX512" for line in history.values())
    return LABELS[arm] + " *" * is_faster


def mean(figures: CalibrationMetrics, kind: str) -> float:
    return statistics.fmean(right / total for right, total in figures[kind].values())


def summary(lines: Sequence[CalibrationMetrics]) -> dict[str, float]:
    """Return the figures of one arm and seed whose drops are all done."""
    first, last = lines[0], lines[-1]
    whole = all(len(line["trained"]) == number for number, line in enumerate(lines, 1))
    rows = lines if whole else []
    kept = summarise([[right / total for right, total in line["trained"].values()] for line in rows])
    found = {
        "acc": mean(last, "trained"),
        "paraphrase_acc": mean(last, "paraphrases"),
        "perplexity_rise": last["perplexity"] / last["perplexity_base"] - 1,
        "seconds": sum(line["seconds"] for line in lines),
        "peak_gib": max(line["peak_gib"] for line in lines),
    }
    if len(lines) > 1:
        found["cost_ratio"] = last["seconds"] / first["seconds"]
    if len(lines) >= 2 * CYCLE:  # one domain after another: the easiest comes first
        early, late = lines[:CYCLE], lines[-CYCLE:]
        found["cycle_ratio"] = sum(line["seconds"] for line in late) / sum(line["seconds"] for line in early)
    if kept.bwt is not None:
        ever = [(name, line["trained"][name][0]) for line in lines for name in line["trained"]]
        lost = [right - last["trained"][name][0] for name, right in ever]
        found |= {"bwt": kept.bwt, "worst_drop": max(lost)}
    if "promote" in last:
        found["refused"] = sum(not line["promote"] for line in lines)
    return found


def collect() -> dict[tuple[Run, str, int], dict[int, CalibrationMetrics]]:
    """Return the finished drops of every run, arm and seed."""
    found: dict[tuple[Run, str, int], dict[int, CalibrationMetrics]] = {}
    for step in STEPS:
        if line := step.figures():
            found.setdefault((step.run, step.arm, step.seed), {})[step.drop] = line
    return found


def flatten() -> CalibrationMetrics:
    """Return the flat figures of every arm that has a seed with all drops done."""
    flat: CalibrationMetrics = {}
    complete: dict[tuple[Run, str], list[dict[str, float]]] = {}
    for (run, arm, _), history in collect().items():
        if run.drops in history:
            complete.setdefault((run, arm), []).append(summary(list(history.values())))
    for (run, arm), seeds in complete.items():
        for key in seeds[0]:
            values = [found[key] for found in seeds]
            value = max(values) if key in {"worst_drop", "peak_gib"} else statistics.fmean(values)
            flat[f"{'' if arm == 'c' else arm + '_'}{key}{run.drops}"] = round(value, 4)
        if arm == "c":
            flat[f"seeds{run.drops}"] = len(seeds)
    if "d_paraphrase_acc5" in flat:
        flat["joint_paraphrase_acc5"] = flat["d_paraphrase_acc5"]
    if {"paraphrase_acc5", "joint_paraphrase_acc5"} <= flat.keys():
        flat["paraphrase_gap5"] = round(flat["joint_paraphrase_acc5"] - flat["paraphrase_acc5"], 4)
    return flat


def plot() -> None:
    plt = report.pyplot()

    histories = collect()
    runs = list(dict.fromkeys(run for run, _, _ in histories))
    figure, axes = plt.subplots(len(runs), 2, figsize=(11, 4 * len(runs)), squeeze=False)
    for (run, arm, seed), history in histories.items():
        recall = [mean(line, "trained") for line in history.values()]
        seconds = [line["seconds"] for line in history.values()]
        style = {"color": f"C{list(LABELS).index(arm)}", "marker": "*" if arm == "d" else "."}
        for axis, values in zip(axes[runs.index(run)], (recall, seconds), strict=True):
            axis.plot(list(history), values, label=label(arm, history) if seed == 1 else None, **style)
    for run, (left, right) in zip(runs, axes, strict=True):
        left.set(ylabel="mean recall of all datasets so far", ylim=(0, 1.02))
        right.set(ylabel="seconds (* on a faster machine)", ylim=(0, None))
        for axis in (left, right):
            axis.set(xlabel="drop", title=f"{run.drops} drops of {run.rows}")
            axis.xaxis.get_major_locator().set_params(integer=True)
        left.legend(loc="lower left", fontsize="small")
    figure.tight_layout()
    figure.savefig(report.RESULTS / "retention.png", dpi=120)


def publish() -> None:
    finished = [found for step in STEPS if (found := step.figures())]
    files.write_json(RECORDS, RECORDED | {str(s): f for s in STEPS if (f := s.figures())})
    commits = ", ".join(sorted({found["commit"] for found in finished}))
    progress = f"{len(finished)} of {len(STEPS)} steps done" + ", run again" * (len(finished) < len(STEPS))
    notes = [*(__doc__ or "").splitlines(), "", *NOTES, "", f"{progress}. Made at commit {commits}."]
    table = [
        "## Recall of all datasets so far / seconds, drop by drop\n\n| run | arm | drops |\n|---|---|---|"
    ]
    for (run, arm, seed), history in collect().items():
        cells = [
            f"{mean(f, 'trained'):.3f} / {f['seconds']:.0f}" + " refused" * (not f.get("promote", True))
            for f in history.values()
        ]
        table.append(f"| {run.name} | {label(arm, history)}, seed {seed} | {', '.join(cells)} |")
    report.RESULTS.mkdir(exist_ok=True)
    plot()
    flat = flatten()
    report.save("retention", flat, notes, tables=table)
    print(json.dumps(flat, indent=2), progress, sep="\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=55, help="begin no step that would end later")
    parser.add_argument(
        "--only", default="", help="steps whose names begin so: short, long, short-c-1 (run, arm, seed)"
    )
    parser.add_argument("--fresh", action="store_true", help="forget the finished steps (of --only's)")
    parser.add_argument("--step", help=argparse.SUPPRESS)  # a child's
    options = parser.parse_args()
    hardware.quieten()
    if options.step:
        make(next(step for step in STEPS if str(step) == options.step))
        return
    chosen = [step for step in STEPS if str(step).startswith(options.only)]
    for step in chosen if options.fresh else ():
        files.remove(step.folder())
    base_folder()
    advance(chosen, options.minutes)
    if any(step.figures() for step in STEPS):
        publish()


if __name__ == "__main__":
    main()
