"""What differs between TensorFlow, JAX and PyTorch, behind one typed interface."""
