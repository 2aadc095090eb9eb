"""Formats in which more than one source brings rows."""
