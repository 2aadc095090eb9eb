"""Fuzzy matching: who is one person although nothing they bear is equal."""
