"""From a job to a candidate: plan, rehearsal, the training loop, the session that runs it in a process of its own.

What never lives here: the ledger, the socket; ``serving`` is not imported.
"""

import lorad.models  # noqa: F401 - before transformers' trainer, which imports bitsandbytes: see there
