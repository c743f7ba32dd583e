"""From a file that somebody dropped to examples: settle, open once, read, validate.

What lives here: the inbox, sidecars, containers of rows, formats of rows, and the process that reads. What never
does: tasks, models, torch; keeping examples (``storage.memory``).
"""
