"""The TensorRT engine: its library, plans, GPU memory and execution."""
