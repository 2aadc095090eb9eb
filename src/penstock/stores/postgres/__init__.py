"""Live tables, knowledge base and snapshots in PostgreSQL."""
