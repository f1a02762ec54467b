"""From frames to people: find faces, follow them, keep a stream for each."""
