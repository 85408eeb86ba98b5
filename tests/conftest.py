"""Runs before PyTorch is imported."""

import os

# Two workers share the machine's cores; threads that wait for each other cost more than they bring.
os.environ.setdefault("OMP_NUM_THREADS", "1")
