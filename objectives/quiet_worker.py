"""Imported by a fork server before all else: its workers are quiet even where the program that starts them is not."""

from objectives.quiet import quiet

quiet()
