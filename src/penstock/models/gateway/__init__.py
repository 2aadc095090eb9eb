"""One face for language models: what is asked, by which endpoint, and what it took."""
