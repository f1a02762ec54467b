"""TensorRT plans, built from the exported graphs."""
