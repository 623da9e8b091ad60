"""Exported models, loaded and called."""
