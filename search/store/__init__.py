"""The content-addressed store of stages, and locks and atomic writes for it."""
