"""The part of the command line that needs models but no daemon: ``base``, ``plan``, ``check``, ``calibrate`` and so on.

A program of its own, because ``lorad`` itself never loads torch; ``lorad base …`` becomes
``python -m lorad.apps.cli.model_commands base …``.
"""
