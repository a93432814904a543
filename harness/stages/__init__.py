"""Stages: one step of the main job each; a room is called, a result returned."""
