"""The ``lorad`` command: two programs.

``main`` puts together the commands that ask the daemon, read what it has recorded, or drop files. ``model_commands`` is a
program of its own for those that need models; ``programs`` hands over to it. What never lives here: tables and screens
(``apps.screens``), HTTP (``serving.client``).

``lorad status`` must feel instant. So what only some commands need is imported inside them (rich 60 ms,
pydantic and YAML for the settings 80 ms), and torch, FastAPI and httpx never are.
"""
