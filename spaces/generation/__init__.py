"""Generation with causal language models: programs with a key-value cache, and what is done with them."""
