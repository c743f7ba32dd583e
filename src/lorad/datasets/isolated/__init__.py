"""Reading in a separate process, so that no file can crash, block or bloat the daemon.

What never lives here: a model, a tokenizer, the database; starting processes (``apps.daemon``).
"""
