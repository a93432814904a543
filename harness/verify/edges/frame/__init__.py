"""Frames: what is true of the stack, proved by executing code on symbols."""
