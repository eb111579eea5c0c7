"""Copies of the same picture in an index: exact, resized, recompressed, mirrored, cropped.

pairs.py finds pairs by codes, then features; groups.py joins them to groups and looks at the files;
page.py shows those to a person.
"""
