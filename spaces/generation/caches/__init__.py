"""Key-value caches of the torch runtimes, one a file."""
