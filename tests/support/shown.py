"""What may be shown on a terminal."""

import unicodedata

ALLOWED = {"\u200c", "\u200d"}  # they join letters in Persian and Hindi, and people in emoji


def is_safe(text, also="\n\t"):
    """Tell whether no character of a text steers, hides or turns anything."""
    hidden = {"Cc", "Cf", "Cs", "Zl", "Zp"}
    return all(unicodedata.category(sign) not in hidden or sign in ALLOWED or sign in also for sign in text)
