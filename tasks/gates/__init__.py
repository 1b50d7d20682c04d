"""Pure judgements on what was served."""
