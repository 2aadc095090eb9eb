"""All commands, by importing the modules that declare them."""

from penstock.cli import (
    acl,
    ask,
    evaluating,
    identity,
    init,
    keys,
    looking,
    mcp,
    measure,
    mending,
    models,
    profiles,
    run,
    serve,
    story,
    torture,
)

__all__ = [
    "acl",
    "ask",
    "evaluating",
    "identity",
    "init",
    "keys",
    "looking",
    "mcp",
    "measure",
    "mending",
    "models",
    "profiles",
    "run",
    "serve",
    "story",
    "torture",
]
