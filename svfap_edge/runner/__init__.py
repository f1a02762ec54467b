"""Sources through one engine into sinks, with an account of the time it took."""
