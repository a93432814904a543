"""Text: columns of instructions, and the model of how the kernel patches them."""
