"""What rows come in: JSON, tables of text, Parquet, plain text. A file in, numbered rows out, one at a time.

What never lives here: what a row's fields mean (``formats``).
"""
