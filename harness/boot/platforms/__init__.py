"""Platforms: how each one boots a kernel, as pure plans."""
