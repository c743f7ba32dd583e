"""Start the daemon: ``python daemon``, the same as ``lorad run``. What it does lives in ``lorad.apps.daemon``."""

import sys

from lorad.apps.daemon.app import main

sys.exit(main())
