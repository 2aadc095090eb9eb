"""Penstock brings fresh context to generative AI."""
