"""Reading in a process of its own, so that no file can end, stop or swell the daemon.

What never lives here: a model, a tokenizer, the database; starting processes (``apps.daemon``).
"""
