"""Shared fixtures: a tiny random model with a real tokenizer, made on the fly."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
import torch

torch.set_num_threads(1)  # the models are tiny: a second thread only waits for the first
