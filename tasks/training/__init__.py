"""Trains in a separate process, so that TensorFlow starts in parallel with Prefect and frees its memory afterwards."""
