"""Erasing people from a project, and giving them what is known of them (G9)."""

from penstock.operate.erasing.carrying import (
    Outcome,
    erase,
    finish_pending,
    lift,
    listed,
    preview,
    suppression,
)

__all__ = ["Outcome", "erase", "finish_pending", "lift", "listed", "preview", "suppression"]
