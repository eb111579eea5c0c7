"""What an index knows of its items besides codes: files, classes, columns, and filters on them."""
