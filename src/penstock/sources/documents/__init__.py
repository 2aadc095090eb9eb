"""What all sources of documents share: what was found, what is known of it, and its row."""
