"""Training in a process of its own, so that TensorFlow starts beside Prefect and gives its memory back."""
