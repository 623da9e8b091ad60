"""What trials gave: outcomes, dominance, choosing, and the words for them."""
