"""Writes and reads SavedModels: signature, warm-up, manifest."""
