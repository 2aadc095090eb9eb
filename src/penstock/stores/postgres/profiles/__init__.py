"""Profiles in PostgreSQL: evidence, who is who by it, and reading that."""
