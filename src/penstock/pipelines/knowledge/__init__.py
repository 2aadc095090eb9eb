"""Documents and searched rows to chunks with vectors."""
