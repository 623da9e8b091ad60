"""What was made once, kept by digest."""
