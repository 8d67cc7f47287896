"""Tiles of products: which are possible, how long each may take, and which one is taken."""
