"""Versions on disk: numbers, locks, publishing."""
