"""Training of SVFAP in PyTorch: the model, pre-training and fine-tuning."""
