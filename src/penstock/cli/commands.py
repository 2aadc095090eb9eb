"""All commands, by importing the modules that declare them."""

from penstock.cli import ask, init, looking, measure, mending, run, story, torture

__all__ = ["ask", "init", "looking", "measure", "mending", "run", "story", "torture"]
