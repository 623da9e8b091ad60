"""What can be built: the axes of compression and the runtimes, as `registry` lists them."""
