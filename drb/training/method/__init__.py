"""What a method sees and may do: its hooks and needs, batches, optimiser steps, tasks and parameter vectors."""
