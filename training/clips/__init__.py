"""From lists of videos to batches of augmented clips."""
