"""Number formats, each defined in NumPy: what the generated code must compute."""
