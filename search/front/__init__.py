"""Outcomes of trials, the Pareto front, picks, and how they are written for people."""
