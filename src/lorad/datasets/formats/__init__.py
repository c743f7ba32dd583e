"""What rows mean. A row in, examples out; one module for each family of formats.

A new dataset format is a module here and a line in ``reader``. What never lives here: opening files (``containers``).
"""
