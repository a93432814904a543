"""Bench: what we cost, beside what objtool costs. Nothing here passes or fails."""
