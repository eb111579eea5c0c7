"""Indexes in other people's files and databases, and codes of others made into an index.

rows.py takes an index apart into batches of rows; each other file is one form: parquet.py and
pgvector.py (with copying.py, the bytes that PostgreSQL takes) and npy.py. FAISS files, which need
no more than NumPy, are in `search.interchange`.
"""
