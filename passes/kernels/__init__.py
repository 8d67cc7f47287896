"""Kernels that lowc generates itself, in the vector dialect, where stock code is slow."""
