"""What is kept of answers, and what can be done with it: show, replay, compare."""
