"""Where a test lets a backend's tokens go."""

import math


class Sink:
    """Keeps an answer's tokens, until it has enough."""

    def __init__(self, most=math.inf):
        self.most = most
        self.tokens = []
        self.logprobs = []
        self.is_wanted = True
        self.ended = 0
        self.error = None

    def put(self, tokens, logprobs=()):
        self.tokens += tokens
        self.logprobs += logprobs
        return len(self.tokens) < self.most

    def end(self, error=None):
        self.ended += 1
        self.error = error
