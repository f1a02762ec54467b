"""Where results go: JSON lines, overlay videos, timelines."""
