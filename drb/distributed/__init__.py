"""Who is there, who is alive, and whether all ranks agree."""
