"""Durable, ordered, replayable stream storage."""
