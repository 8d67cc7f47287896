"""Measure tiles of products on this machine: build kernels alone, run them, and say how long."""
