"""The history of a model that is updated again and again: its versions, which of them is current, and why."""
