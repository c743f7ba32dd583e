"""The programs: the daemon, the command line, and the screens that both print on.

Wiring, threads, signals, clocks and the scheduler live here; anything that could be decided elsewhere does not.
"""
