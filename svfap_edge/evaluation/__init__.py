"""What each artifact loses against the baseline, with intervals, and a report of it."""
