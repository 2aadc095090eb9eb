"""Computations from changes to effects."""
