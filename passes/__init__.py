"""What rewrites the IR; knows MLIR, and nothing of PyTorch or files."""
