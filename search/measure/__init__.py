"""Quality, size, memory and latency of candidates."""
