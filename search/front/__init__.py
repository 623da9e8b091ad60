"""Outcomes of trials, the Pareto front, picks, and their wording."""
