"""Flows that read as a table of contents, and their command lines."""
