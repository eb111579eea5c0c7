"""Indexes exported to other formats and databases, and codes made elsewhere turned into an index.

rows.py takes an index apart into batches of rows; each other file is one format: parquet.py and
pgvector.py (with copying.py, the bytes that PostgreSQL takes) and npy.py. FAISS files, which need
no more than NumPy, are in `search.interchange`.
"""
