"""Tests that need an NVIDIA GPU. `python -m tests.gpu FOLDER` runs them and writes a report."""
