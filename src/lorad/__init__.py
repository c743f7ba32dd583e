"""lorad: a daemon that keeps a local language model learning, and proves that it forgets nothing."""

__version__ = "0.1.0"
