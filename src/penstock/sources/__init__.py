"""Systems that change: databases, folders."""
