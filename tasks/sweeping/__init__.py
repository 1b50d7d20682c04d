"""The variants of a sweep: what identifies them, and how one of them is trained."""
