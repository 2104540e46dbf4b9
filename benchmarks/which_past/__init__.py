"""What each way to choose the past is worth where forgetting is planted: docs/which_past.md."""
