"""Measure lowc's kernels on a GPU of another machine: compile here, collect there, import here."""
