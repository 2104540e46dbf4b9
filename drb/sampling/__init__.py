"""Who is drawn from the union of all buffers."""
