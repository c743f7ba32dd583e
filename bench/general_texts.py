"""Let a base say the general texts that come with lorad, for whoever releases it.

    python bench/general_texts.py [BASE] [--name smollm2] [--dtype bfloat16]

Without a base it is SmolLM2. It writes ``src/lorad/training/general_texts/NAME.safetensors`` and measures nothing.
"""

import argparse
import sys
from pathlib import Path

from learn import base_folder
from lorad.models import bases, hardware
from lorad.storage import files
from lorad.tasks import find
from lorad.training import distillation


def main() -> None:
    """Speak and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("base", nargs="?", type=Path)
    parser.add_argument("--name", default="smollm2")
    parser.add_argument("--dtype", choices=hardware.DTYPES, default="float32")
    options = parser.parse_args()
    hardware.quieten()
    base = bases.load_base(options.base or base_folder(), hardware.DTYPES[options.dtype])
    weights = bases.weights_digest(base.folder)
    assert weights, "its weights are several files"
    rows = distillation.speak(
        base.model, base.tokenizer, find("chat"), lambda done, total: print(f"{done} of {total}", flush=True)
    )
    path = distillation.READY / f"{options.name}.safetensors"
    files.write_bytes(path, distillation.pack_ready(rows, weights))
    print(f"{path}: {len(rows)} texts, {path.stat().st_size} bytes", file=sys.stderr)


if __name__ == "__main__":
    main()
