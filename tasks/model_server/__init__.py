"""The embedded model server: TensorFlow Serving's contract on TensorFlow's C API, for where no Docker is."""
