"""Verify: columns become findings. Judges, opens no file."""
