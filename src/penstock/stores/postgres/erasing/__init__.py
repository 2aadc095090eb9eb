"""Erasing people from what is stored in PostgreSQL: one holder for each part that can hold them."""
