"""Where a session runs: a child process here, one module a way.

What never lives here: what a session does (``training.session``), what becomes of its candidate.
"""
