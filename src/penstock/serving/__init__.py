"""Context and answers."""
