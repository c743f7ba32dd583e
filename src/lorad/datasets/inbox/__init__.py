"""The folder that people drop files into: which are complete, where each ends, nothing lost on the way.

What never lives here: rows (``reader``), remembering (``storage.ledger``).
"""
