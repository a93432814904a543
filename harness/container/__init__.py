"""Containers: the engine that runs them and the images that we run."""
