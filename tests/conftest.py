"""Shared fixtures: a tiny random model with a real tokenizer, made on the fly."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
import pytest
import torch

torch.set_num_threads(1)  # the models are tiny: a second thread only waits for the first


@pytest.fixture(autouse=True)
def _usual_umask():
    """Begin each test with the usual umask: commands that run in the test's own process set lorad's."""
    os.umask(0o022)
