"""Imported by a fork server before all else: its workers are quiet, whatever the program that starts them is."""

from objectives.quiet import quiet

quiet()
