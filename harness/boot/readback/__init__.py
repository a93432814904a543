"""Readback: the text of a running kernel, read, and every byte of it predicted."""
