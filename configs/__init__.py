"""The configuration schema, and the examples: NAME.yaml with NAME.py, its data and model functions."""
