"""INT8 quantization of the exported graph, and the gate it must pass."""
