"""Which example of memory a question asks for, and whether any does.

What never lives here: models' weights, HTTP, deciding what a version has learned.
"""
