"""Models that predict quality, latency and cost before a candidate is built."""
