"""Versions: the store and its tracker, loading with proof, exports, imports.

What never lives here: training, deciding what is promoted (``evaluation.judge``), answering.
"""
