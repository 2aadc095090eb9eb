"""What authors of sources, logs, stores and models test against."""
