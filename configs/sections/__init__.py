"""The sections of the configuration, one module each; configs/schema.py puts them together."""
