"""The suite's own settings; options and items for kernels come from the plugin."""

from __future__ import annotations
