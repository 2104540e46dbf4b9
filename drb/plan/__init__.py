"""`drb plan`: measures, before a long run, whether rehearsal is overlapped with training and what it costs.

command   reads the options, starts the measurement, and prints and writes the answer
measure   times training steps with and without rehearsal, in turn, on the ranks of a launcher
report    the answer in words
fabric    checks the links between the ranks and times the collectives; fabric_report says it in words
"""
