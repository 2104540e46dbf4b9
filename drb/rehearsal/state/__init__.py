"""States of a rehearsal: checking, loading, dealing them to another number of ranks, forgetting in them."""
