"""lorad: a daemon that keeps a local language model learning, and tests after every session what was forgotten."""

__version__ = "0.1.0"
