"""The demo: a small travel company, from its database and folder to a fresh, cited answer."""
