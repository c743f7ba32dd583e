"""The daemon: wiring, the learning loop, and what people ask of it."""
