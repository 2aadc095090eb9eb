"""What moves changes: the two loops and who runs them."""
