"""`lowc tune`: measure tiles, keep what was measured, and fit cost models to it."""
