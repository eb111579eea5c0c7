"""Copies of the same picture in an index: exact, resized, recompressed, mirrored, cropped.

pairs.py finds pairs by codes, then features; groups.py joins them, files.py looks at the files of a
group; page.py shows groups to a person; finding.py is all of it.
"""
