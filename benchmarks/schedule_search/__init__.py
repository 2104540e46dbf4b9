"""Which schedule of replay is best: tree search, random search and a learnt policy against equal shares.

`stream` trains one task after a prefix of a schedule, `search` has the schedules' tree and what looks for a good one in
it, `policy` a Q-network that is trained on some streams and used on others. `python -m benchmarks.schedule_search`.

A schedule is a list of actions. The action before task t is a tuple of t whole numbers that sum to t: how many t-ths of
the M replayed samples each of the t tasks seen so far gives (Klasson et al. 2023, arXiv 2209.08660).
"""
