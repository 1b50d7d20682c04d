"""The embedded model server: TensorFlow Serving's interface on TensorFlow's C API, for machines without Docker."""
