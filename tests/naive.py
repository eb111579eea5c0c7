"""Slow, obviously correct NumPy twins of the fast functions: what the tests compare with."""

import numpy as np
