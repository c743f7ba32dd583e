"""What lasts: files written whole or not at all, the database, and the tables and folders over them.

What lives here: durable writes, open directories, permissions, SQLite, the ledger of drops and jobs, the memory of
examples. What never does: what a dataset, a model or a version means, HTTP, threads, tensors.
"""
