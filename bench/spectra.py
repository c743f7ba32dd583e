"""Spectra of molecules that were never trained, through the real daemon: which of 20 candidates of near mass is right.

    python bench/spectra.py [--fresh] [--only ARM ...] [--quick]

Arms, each in a process of its own and resumed from the cache: `lorad_1`, `lorad_2`, `lorad_3` (molecules divided by another seed each:
drop 1 the spectra of cations, drop 2 those of anions, of three quarters of the molecules; asked after each are the cations of the
others) and `baselines` (the same questions to the precursor's mass alone, to fragments' formulae alone, and to a library of the trained spectra,
searched by modified cosine). What the spectra are and what the baselines do: `spectra_data.py`. `--quick` takes few spectra, to see
whether all works; its results are not kept.

`mrr` is the mean reciprocal rank of the right candidate, `top1` how often it is first; those of the same score share their ranks.
`mrr_ahead_of_X` compares lorad and X seed by seed: the divisions differ more than the ways.
"""

import json
import shutil
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import labels
import report
import spectra_data
import three_drops
from lorad.home import Home
from lorad.models import hardware
from lorad.serving.client import Client
from spectra_data import Measured

SEEDS = (1, 2, 3)
DROPS = ("cations", "anions")
ARMS = (*(f"lorad_{seed}" for seed in SEEDS), "baselines")
SETTINGS = report.BENCH.parent / "configs" / "spectra.yaml"
QUICK = 60
"""Spectra of each drop, and asked, with `--quick`."""
TOGETHER = 4
"""Spectra of a request."""
BASELINES = ("mass", "formulae", "cosine")

quick = False


def spectra_of(seed: int) -> tuple[list[Measured], list[Measured], list[Measured]]:
    """Return the spectra of both drops, and those that are asked."""
    trained, apart = spectra_data.divide(seed)
    cations = [each for each in trained if each.is_positive]
    anions = [each for each in trained if not each.is_positive]
    asked = [each for each in apart if each.is_positive]
    return tuple(each[:QUICK] for each in (cations, anions, asked)) if quick else (cations, anions, asked)  # type: ignore[return-value]


def figures(ranks: Sequence[float]) -> dict[str, float]:
    return {
        "mrr": statistics.mean(1 / rank for rank in ranks),
        "top1": statistics.mean(rank == 1 for rank in ranks),
    }


def ask(client: Client, asked: Sequence[Measured]) -> dict[str, float]:
    ranks = []
    for begin in range(0, len(asked), TOGETHER):
        group = asked[begin : begin + TOGETHER]
        found = client.match_spectra(
            [{**each.spectrum, "candidates": spectra_data.candidates(each)} for each in group]
        )
        for each, said in zip(group, found.spectra, strict=True):
            scores = {match.smiles: match.match for match in said.matches}
            smiles = list(scores)
            ranks.append(spectra_data.rank([scores[name] for name in smiles], smiles.index(each.smiles)))
    return figures(ranks)


def lorad(seed: int) -> dict[str, Any]:
    home = Home(report.CACHE / f"spectra_{seed}{'_quick' * quick}")
    known = next(report.CACHE.glob("*/models/base/rxnmapper/fingerprint.json"), None)
    if known is None:
        report.add_base(home.root, "rxnmapper")
    elif not home.base("rxnmapper").is_dir():  # fetched once for all homes
        shutil.copytree(known.parent, home.base("rxnmapper"))
    for folder in (home.configs, home.inbox):
        folder.mkdir(exist_ok=True, parents=True)
    shutil.copyfile(SETTINGS, home.configs / "default.yaml")
    cations, anions, asked = spectra_of(seed)
    lessons = labels.Lessons(home)
    with three_drops.daemon(home) as client:
        for name, rows in zip(DROPS, (cations, anions), strict=True):
            done = lessons.learn(
                client, "spectra", name, [each.row for each in rows], lambda: ask(client, asked)
            )
            print(seed, name, done["asked"], flush=True)
        found = labels.papers(client, "spectra")
    counts = {"cations": len(cations), "anions": len(anions), "asked": len(asked)}
    return {"lessons": lessons.done, "counts": counts, "papers": found}


def baselines() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for seed in SEEDS:
        cations, _, asked = spectra_of(seed)
        library = spectra_data.Library(cations)
        ways: dict[str, Callable[[Measured, Sequence[str]], list[float]]] = {
            "mass": spectra_data.by_mass,
            "formulae": spectra_data.by_formulae,
            "cosine": library.scores,
        }
        ranks: dict[str, list[float]] = {name: [] for name in ways}
        for each in asked:
            smiles = spectra_data.candidates(each)
            for name, score in ways.items():
                ranks[name].append(spectra_data.rank(score(each, smiles), smiles.index(each.smiles)))
        found[str(seed)] = {name: figures(those) for name, those in ranks.items()}
        print(seed, found[str(seed)], flush=True)
    return found


def run_arm(arm: str) -> dict[str, Any]:
    return baselines() if arm == "baselines" else lorad(int(arm.rpartition("_")[2]))


def gathered(arms: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the means over seeds, and their spreads (standard deviations)."""
    found: dict[str, Any] = {"seeds": len(SEEDS), "candidates": spectra_data.CANDIDATES}
    runs = [arms[f"lorad_{seed}"] for seed in SEEDS]
    for name in ("mrr", "top1"):
        after = {drop: [run["lessons"][drop]["asked"][name] for run in runs] for drop in DROPS}
        _tell(found, name, after["cations"])
        _tell(found, f"{name}_after_second_drop", after["anions"])
        pairs = zip(after["cations"], after["anions"], strict=True)
        found[f"{name}_lost_by_second_drop"] = round(statistics.mean(one - other for one, other in pairs), 4)
        for way in BASELINES:
            _tell(found, f"{way}_{name}", [arms["baselines"][str(seed)][way][name] for seed in SEEDS])
    for way in BASELINES:
        others = [arms["baselines"][str(seed)][way]["mrr"] for seed in SEEDS]
        own = [run["lessons"]["cations"]["asked"]["mrr"] for run in runs]
        _tell(found, f"mrr_ahead_of_{way}", [one - other for one, other in zip(own, others, strict=True)])
    for name in ("cations", "anions", "asked"):
        found[f"spectra_{name}"] = round(statistics.mean(run["counts"][name] for run in runs))
    for drop in DROPS:
        jobs = [run["lessons"][drop]["job"] for run in runs]
        found[f"{drop}_seconds"] = round(statistics.mean(job["cpu_seconds"] for job in jobs), 1)
        found[f"{drop}_promoted"] = sum(job["state"] == "promoted" for job in jobs)
    found["held_out_mrr_of_papers"] = round(
        statistics.mean(run["papers"].get("held_out_mrr", 0.0) for run in runs), 4
    )
    return found


def _tell(found: dict[str, Any], name: str, values: Sequence[float]) -> None:
    found[name] = round(statistics.mean(values), 4)
    found[f"{name}_spread"] = round(statistics.stdev(values), 4)


def aims(found: dict[str, Any]) -> list[tuple[str, bool]]:
    told = []
    for way in BASELINES:
        spread = max(found["mrr_spread"], found[f"{way}_mrr_spread"])
        ahead = found["mrr"] - found[f"{way}_mrr"]
        told.append((f"mrr {ahead:+.3f} beside {way} (spread {spread:.3f})", ahead > spread))
    lost = found["mrr_lost_by_second_drop"]
    return [*told, (f"the second drop costs {lost:.3f} of mrr (at most 0.010)", lost <= 0.01)]


WAYS = {
    "formulae": "formulae of\nfragments",
    "cosine": "library,\nmodified cosine",
    "mass": "mass of the\nprecursor",
    "lorad": "lorad,\ncations",
    "lorad_both": "lorad,\nthen anions",
}


def plot(arms: dict[str, dict[str, Any]]) -> None:
    """Draw how often each way finds the right one of the candidates: the mean over seeds, and each seed."""
    plt = report.pyplot()
    figure, panels = plt.subplots(1, 2, figsize=(11, 4.2), sharey=True)
    for axes, name, title in zip(
        panels, ("mrr", "top1"), ("mean reciprocal rank", "right one first"), strict=True
    ):
        for at, way in enumerate(WAYS):
            values = [_of(arms, way, seed)[name] for seed in SEEDS]
            color = "tab:blue" if way.startswith("lorad") else "tab:gray"
            (bar,) = axes.bar([at], [statistics.mean(values)], 0.6, color=color, alpha=0.6)
            axes.plot([at] * len(values), values, "k.", markersize=5)
            axes.annotate(
                f"{statistics.mean(values):.2f}", (at, max(*values, bar.get_height()) + 0.02), ha="center"
            )
        axes.set_xticks(range(len(WAYS)), WAYS.values(), fontsize=9)
        axes.set_title(f"{title}, of {spectra_data.CANDIDATES} of near mass", fontsize=11)
        axes.set_ylim(0, 1)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle("Spectra of molecules that were never trained; dots: three divisions", fontsize=11)
    figure.tight_layout()
    report.RESULTS.mkdir(exist_ok=True)
    figure.savefig(report.RESULTS / "spectra.png", dpi=120)


def _of(arms: dict[str, dict[str, Any]], way: str, seed: int) -> dict[str, float]:
    if way in BASELINES:
        found: dict[str, float] = arms["baselines"][str(seed)][way]
    else:
        found = arms[f"lorad_{seed}"]["lessons"]["anions" if way == "lorad_both" else "cations"]["asked"]
    return found


def hurry() -> None:
    globals()["quick"] = True


def forget(names: Sequence[str]) -> None:
    for name in names:
        shutil.rmtree(
            report.CACHE / f"spectra_{name.rpartition('_')[2]}{'_quick' * quick}", ignore_errors=True
        )


def main() -> None:
    hardware.quieten()
    arms = report.arms(__file__, ARMS, run_arm, forget, hurry)
    if set(arms) != set(ARMS):
        print(json.dumps(arms, indent=2))
        return
    found = gathered(arms)
    for aim, met in aims(found):
        print("met   " if met else "MISSED", aim)
    if not quick:
        plot(arms)
        report.save("spectra", found, (__doc__ or "").splitlines())


if __name__ == "__main__":
    main()
