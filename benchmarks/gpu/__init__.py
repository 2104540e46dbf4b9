"""What rehearsal costs on a GPU, and whether it is right there: `python -m benchmarks.gpu`, `make gpu-check`."""
