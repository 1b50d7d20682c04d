"""Experiments on real users: which key gets which version, the client that does so, and what the outcomes say."""
