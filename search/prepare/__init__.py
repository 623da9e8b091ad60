"""What all trials of a search share: data, teacher, statistics, teacher outputs, costs of matrix products."""
