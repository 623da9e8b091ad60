"""What to try next: the study, the samplers, and who goes on. The only room that imports optuna."""
