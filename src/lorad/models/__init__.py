"""Base models and adapters: loading them, the exact arithmetic, scoring rows. PEFT and torch's files live here alone.

What never does: training loops, thresholds, versions on disk.
"""
