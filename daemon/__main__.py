"""Start the daemon: ``python daemon``, the same as ``lorad run``. What it does lives in ``lorad.app``."""

import sys

from lorad.app import main

sys.exit(main())
