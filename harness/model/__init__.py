"""Checkpoints: what they are, where they lie, what one token of theirs costs."""
