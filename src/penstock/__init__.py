"""Penstock brings fresh context to generative AI.

async with penstock.open("penstock.yaml") as project:
    context = await project.context("What does flight PS204 cost?")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from penstock.project import Project
    from penstock.project import open_project as open  # noqa: A004 - penstock.open reads well

__all__ = ["Project", "open"]
__version__ = "0.1.0"

DEFAULT_FILE = "penstock.yaml"
"""The project file, when no other is named."""


def __getattr__(name: str) -> Any:
    """Load the project's machinery when it is first used: `import penstock` stays quick."""
    if name in {"open", "Project"}:
        from penstock import project

        return project.open_project if name == "open" else project.Project
    raise AttributeError(f"module 'penstock' has no attribute {name!r}")
