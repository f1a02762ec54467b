"""The training loop: sessions, optimizers, resuming, devices, reports."""
