"""Index files: their format, writing them whole or not at all, and reading them mapped."""
