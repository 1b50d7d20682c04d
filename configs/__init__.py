"""The configuration schema, and the examples: each NAME.yaml has its data and model functions in NAME.py."""
