"""The step: what a training loop calls, and the round that runs behind it."""
