"""A job becomes outcomes: weights are built, then measured."""
