"""Answering: the engine, what a home has recorded as queries, the client of the socket.

What never lives here: training, which is not imported; deciding what serves (``apps.daemon``).
"""
