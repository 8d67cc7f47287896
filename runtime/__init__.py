"""Load and run compiled modules; needs NumPy and ``iree.runtime`` only."""
