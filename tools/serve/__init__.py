"""`lowc serve`: cost models by the Open Inference Protocol, a page, and two endpoints more."""
