"""TensorRT: loading its library, plans, memory and execution."""
