"""Report: results become documents."""
