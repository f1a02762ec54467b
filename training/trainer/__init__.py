"""Pre-training and fine-tuning: objectives, the loop, optimizers, resuming, devices, reports."""
