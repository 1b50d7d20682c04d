"""Reads, splits and saves rows."""
