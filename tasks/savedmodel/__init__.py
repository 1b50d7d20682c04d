"""Writing and reading SavedModels: signature, warm-up, manifest."""
