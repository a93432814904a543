"""What the table and the lists of places must be, without any execution."""
