"""Proposals of new trials: the study, the samplers and the surrogate. Only this package imports optuna."""
