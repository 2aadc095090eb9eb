"""What an operator does with a project: look at it, compare it, repeat it, take it away."""
