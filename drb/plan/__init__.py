"""`drb plan`: whether rounds of rehearsal stay hidden, what they cost and what memory they take, before a long run.

command   options, questions, what is printed and written
probe     measures steps, rounds and messages on the ranks of a launcher
cores     rounds with a core for each rank, and with two on a core
timing    how long a collective call takes
model     what a round sends and how long that takes, for any number of ranks: pure arithmetic
forecast  the model's answers for one job, and as tables
"""
