"""States of a rehearsal: checking, loading, dealing them to another number of ranks, forgetting in them."""

from drb.rehearsal.state.torch_load import allow_arrays

allow_arrays()
