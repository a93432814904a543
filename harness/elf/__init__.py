"""Elf: bytes become columns. Parses, never judges."""
