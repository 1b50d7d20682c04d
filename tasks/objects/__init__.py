"""Live versions in an object store: what is there, how it gets there, and how servers get it from there."""
