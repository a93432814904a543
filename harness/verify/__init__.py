"""Verify: columns become findings. Judges; what it reads, elf has parsed."""
