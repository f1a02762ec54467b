"""Latency, throughput, memory and cold start, measured in fresh processes that take turns."""
