"""The fault campaign: breaks real runs on purpose, at random moments, and checks how they end.

    python -m faults [--count 64] [--seed 0] [--only stop,row_exchange] [--jobs 2]        or: make faults

`plan` draws the faults, `injection` puts one into a rank from outside drb, `ranks` starts ranks and watches them end,
`stage` gives each case folders and a /dev/shm of its own, `case` runs one and checks it, `damage` breaks checkpoints,
`table` shows what came out. Needs Linux; mounts are made in a namespace of their own.
"""
