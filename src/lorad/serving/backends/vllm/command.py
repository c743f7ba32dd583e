"""The command line of a vLLM server that lorad starts.

What lives here: its words, and the environment. What never does: running it (``server_process``).
"""

import shlex
from collections.abc import Mapping
from pathlib import Path

from lorad.errors import ConfigError

RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""The values that ``--max-lora-rank`` takes."""
ADAPTERS_IN_A_STEP = 2
"""A version and the one that takes its place answer together; requests for further ones wait their turn."""
ENVIRONMENT = {
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",  # versions come and go while it runs
    "VLLM_NO_USAGE_STATS": "1",  # it would tell its makers about this machine
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
}


def command_line(
    begin: str, base: Path, name: str, socket: Path, *, dtype: str, max_rank: int, max_loaded: int
) -> list[str]:
    """Return the words that start a server for a base, behind those of ``engine.vllm_command``.

    An option that these name already is left out, but for the base, its name and the socket.
    """
    given = shlex.split(begin)
    options = {
        "--dtype": dtype,  # what was judged serves
        "--max-lora-rank": str(lora_rank(max_rank)),
        "--max-loras": str(ADAPTERS_IN_A_STEP),
        # one more comes before another goes
        "--max-cpu-loras": str(max(ADAPTERS_IN_A_STEP, max_loaded + 1)),
        "--generation-config": "vllm",  # no repetition penalty of the model's own: what was judged had none
        "--uvicorn-log-level": "warning",
    }
    left = [(name, value) for name, value in options.items() if not _names(given, name)]
    flags = [name for name in ("--enable-lora", "--disable-log-stats") if not _names(given, name)]
    fixed = [str(base), "--served-model-name", name, "--uds", str(socket)]
    return [*given, *fixed, *flags, *(word for pair in left for word in pair)]


def lora_rank(max_rank: int) -> int:
    """Return the smallest rank that vLLM can be told and that holds one of ``max_rank``; raise ``ConfigError``."""
    found = next((rank for rank in RANKS if rank >= max_rank), None)
    if found is None:
        raise ConfigError(
            f"vLLM serves adapters of rank {RANKS[-1]} at most, and training.max_rank is {max_rank}; lower it, or set "
            "engine.backend to builtin",
            code="max_rank",
        )
    return found


def environment(around: Mapping[str, str]) -> dict[str, str]:
    """Return a server's environment: the daemon's own, offline."""
    return {**around, **ENVIRONMENT}


def _names(words: list[str], option: str) -> bool:
    return any(word == option or word.startswith(f"{option}=") for word in words)
