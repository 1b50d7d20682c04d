"""Proofs of a promotion: keys, signed envelopes, and what verifies them without MLflow, Prefect or TensorFlow."""
