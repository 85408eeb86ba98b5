"""Runs before PyTorch is imported."""

import os
import tempfile

# Two workers share the machine's cores; threads that wait for each other cost more than they bring.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# What is remembered of data sets goes into a folder that ends with the tests.
_CACHE = tempfile.TemporaryDirectory()
os.environ["VGGNET_CACHE"] = _CACHE.name
