"""How far a run has come, and all that it needs to go on, also on another number of ranks."""
