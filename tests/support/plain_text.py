"""Sentences that a tiny model from scratch can learn in seconds, and a home that learns them."""

import json

from lorad.config import Settings
from lorad.home import Home
from lorad.models import scratch
from lorad.models.scratch import Recipe
from lorad.records import Example

PLACES = {"mill": "river", "school": "church", "inn": "bridge", "forge": "market", "tower": "gate"}
SHIPS = {"heron": "north", "wren": "south", "crow": "east", "finch": "west", "swift": "harbour"}
SIZES = {"vocab_size": 400, "d_model": 32, "num_heads": 2, "num_layers": 2, "d_ff": 64, "max_seq_len": 32}
SIZES |= {"dropout": 0.0}


def documents(pairs=PLACES, count=48, verb="stands by"):
    """Return texts that say the same few things in turn, each from another one on."""
    names = sorted(pairs)
    found = []
    for number in range(count):
        order = [names[(number + at) % len(names)] for at in range(6)]
        found.append(" ".join(f"The {name} {verb} the {pairs[name]}." for name in order) + f" Page {number}.")
    return found


def examples(pairs=PLACES, dataset="places", count=48, verb="stands by"):
    return [
        Example(
            task="retrieval", input={"title": f"{dataset} {at}"}, target=text, dataset=dataset, line=at + 1
        )
        for at, text in enumerate(documents(pairs, count, verb))
    ]


def settings(architecture="encoder", track="words", **sections):
    return Settings.model_validate(
        {
            "tracks": {track: {"base": "scratch", "architecture": architecture, "model": SIZES}},
            "inbox": {"settle_seconds": 0.2},
            "training": {"threads": 1, "seed": 7},
            "pretraining": {
                "epochs": 20,
                "batch": 8,
                "learning_rate": 0.006,
                "continued_learning_rate": 0.004,
                "early_stopping_patience": 4,
            },
            **sections,
        }
    )


def recipe(architecture="encoder", track="words"):
    made = settings(architecture, track)
    return Recipe(architecture=architecture, sizes=made.track(track).sizes, seed=7, tokenizer_bytes=1_000_000)


def store(folder, architecture="encoder", texts=None):
    """Store a base whose tokenizer is trained on the places."""
    scratch.store(folder, recipe(architecture), documents() if texts is None else texts, ["a"])
    return folder


def make_home(root, configured):
    """Make a home with settings in its file, for the programs of a test that read that."""
    for name in ("configs", "inbox", "models"):
        (root / name).mkdir(exist_ok=True)
    told = configured.model_dump(mode="json", exclude_defaults=True)
    (root / "configs" / "default.yaml").write_text(json.dumps(told))
    return Home(root)
