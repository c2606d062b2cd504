"""Native kernels behind the XLA FFI: the library, and its calls from TensorFlow and JAX."""
