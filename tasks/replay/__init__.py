"""Recorded requests: how they are read, what they are compared with, and what is counted of their answers."""
