"""What is done to a finished run: reports, inspection, verification, forgetting."""
