"""Shared fixtures: a tiny random model with a real tokenizer, made on the fly."""

import os
from collections import Counter

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
import pytest
import torch

torch.set_num_threads(1)  # the models are tiny: a second thread only waits for the first

LONGEST = (
    "apps/test_crash.py",
    "training/test_session.py",
    "training/test_process_group.py",
    "apps/test_model_commands.py",
    "apps/test_scratch_cycle.py",
    "apps/test_classification_cycle.py",
    "apps/test_app.py",
    "apps/test_tagging_cycle.py",
    "apps/test_spectra_cycle.py",
    "serving/test_nasty_input.py",
    "apps/test_toy_cycle.py",
    "versions/test_onnx.py",
    "apps/test_old_home.py",
    "serving/test_served_text.py",
    "apps/test_given_names.py",
    "apps/test_cli.py",
)
"""The files that take longest, which begin first: a file is one process's, and the last ones to begin decide when all have ended."""


def pytest_collection_modifyitems(items):
    """Put what takes long first, then the files with many tests; the tests of a file stay as they are."""
    sizes = Counter(item.path for item in items)
    places = {name: place for place, name in enumerate(LONGEST)}

    def place(item):
        name = f"{item.path.parent.name}/{item.path.name}"
        return places.get(name, len(places)), -sizes[item.path], str(item.path)

    items.sort(key=place)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup():
    """Begin each test, and what it shares with others, with the usual umask: commands that run in the test's own process set lorad's."""
    os.umask(0o022)
