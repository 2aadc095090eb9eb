"""All commands, by importing the modules that declare them."""

from penstock.cli import acl, ask, init, looking, measure, mending, models, run, story, torture

__all__ = [
    "acl",
    "ask",
    "init",
    "looking",
    "measure",
    "mending",
    "models",
    "run",
    "story",
    "torture",
]
