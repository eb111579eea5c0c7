"""Codes under ids that can be changed and searched: segments, states, views, answers."""
