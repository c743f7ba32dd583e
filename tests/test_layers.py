"""The architecture drawing, executed."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent

PURE = "errors states records config log storage.files storage.database storage.memory storage.ledger datasets.reader datasets.inbox.inbox datasets.isolated.messages datasets.isolated.reader_process datasets.isolated.worker training.rehearsal training.planner evaluation.retention evaluation.calibration evaluation.judge retrieval.pieces retrieval.question_drawing versions.store"


def python(program):
    return subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_every_module_keeps_to_its_layer():
    # Given the contracts in pyproject.toml, of which the first is exhaustive: an unplaced module breaks it
    program = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True, no_logo=True))"

    result = python(program)

    assert result.returncode == 0, result.stdout + result.stderr
    assert "0 broken" in result.stdout


def test_what_decides_never_loads_what_computes():
    imports = "; ".join(f"import lorad.{name}" for name in PURE.split())

    result = python(
        f"import sys; {imports}; print([m for m in ('torch', 'transformers') if m in sys.modules])"
    )

    assert result.stdout.strip() == "[]", result.stderr
