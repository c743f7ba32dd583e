"""A home whose tracks stand on a tiny encoder, and settings with which it learns rows of labels by heart."""

import tiny_encoder

from lorad.config import Settings
from lorad.home import Home
from lorad.storage import files


def settings(**sections):
    """Return settings with these sections besides (``tracks``, ``systems``)."""
    return Settings.model_validate(
        {
            "inbox": {"settle_seconds": 0.2},
            "planner": {
                "table": [
                    {"rank": 8, "alpha": 16, "epochs": 10, "batch": 2, "accumulation": 4, "max_length": 64}
                ],
                "learning_rates": [{"learning_rate": 0.005}],
                "loraplus_ratio": 1,
                "stopping": {"recall": 1.0, "max_rounds": 120, "patience": 120},
            },
            "rehearsal": {"recalled_share": 1.0},
            "training": {"threads": 1, "dtype": "float32"},
            **sections,
        }
    )


def make(root, configured=None):
    """Make a home with the base ``encoder``, and with settings in its file if the programs of a test read that."""
    for name in ("configs", "inbox", "models"):
        (root / name).mkdir()
    tiny_encoder.store(root / "source", root / "models" / "base" / "encoder")
    if configured is not None:
        told = configured.model_dump(mode="json", exclude_defaults=True)
        files.write_json(root / "configs" / "default.yaml", told)
    return Home(root)
