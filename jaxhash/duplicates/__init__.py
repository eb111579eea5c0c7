"""Copies of the same picture in an index: exact, resized, recompressed, mirrored, cropped.

pairs.py finds pairs by codes, then features; looks.py compares pictures where features leave it
open; groups.py joins pairs, files.py looks at files; page.py shows groups to a person; finding.py
is all of it.
"""
