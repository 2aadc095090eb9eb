"""The command line."""

from __future__ import annotations

__all__ = ["main"]


def main() -> None:
    """Entry point of the program ``penstock``."""
    from penstock.cli.app import run_program

    run_program()
