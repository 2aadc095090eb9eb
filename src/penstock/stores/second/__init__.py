"""Second stores of chunks, which follow the knowledge base in PostgreSQL."""
