"""Execution of jobs: builds the weights of a job and measures them, which gives its outcomes."""
