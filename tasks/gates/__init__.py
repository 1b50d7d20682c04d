"""The gates: pure functions that judge what a server answered."""
