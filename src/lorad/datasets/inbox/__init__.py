"""The inbox: which files are complete, where each file ends up, and that none is lost.

What never lives here: rows (``reader``), remembering (``storage.ledger``).
"""
