"""The Hydra program: from a command line to a finished run."""
