"""What trials gave: outcomes, dominance, estimates, choosing, and the words for them."""
