"""Base models and adapters: loading them, the exact arithmetic, scoring rows. PEFT and torch's files live here alone.

What never does: training loops, thresholds, versions on disk.
"""

import logging
import sys

# Where a package `kernels` is installed, bitsandbytes (which PEFT imports) and transformers fetch compiled code with it from
# the network, on import. lorad takes nothing from the network: to this process that package is not installed.
sys.modules.setdefault("kernels", None)  # type: ignore[arg-type] # None: importing it fails
# says at every import that people should install it, and at every product of 8-bit weights that it rounds
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
