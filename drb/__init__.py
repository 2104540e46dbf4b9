"""drb: distributed rehearsal buffers."""
