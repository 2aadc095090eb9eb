"""Engines that are wrong on purpose, and what the campaign must say of each."""
