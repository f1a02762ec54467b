"""What models and machines can do: times, memory, cameras in real time, training steps."""
