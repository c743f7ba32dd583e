"""What rich writes for colours and the like."""

import re

STYLES = re.compile(r"\x1b\[[0-9;]*m")
