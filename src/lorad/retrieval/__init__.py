"""Finding the learned example that a question asks for, and deciding whether it answers.

What never lives here: models' weights, HTTP, deciding what a version has learned.
"""
