"""Knobs as narrowed by the user and the machine, and the sizes that settings give."""
