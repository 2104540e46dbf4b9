"""One rank's rows: records, slots, storage, and who is admitted."""
