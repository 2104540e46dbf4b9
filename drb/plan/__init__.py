"""`drb plan`: whether rounds of rehearsal stay hidden, what they cost and what memory they take, before a long run.

command   options, questions, what is printed and written
probe     measures steps, rounds and messages on the ranks of a launcher
cores     measures what a round costs more where ranks share a core
model     what a round sends and how long that takes, for any number of ranks: pure arithmetic
forecast  the model's answers for one job, and as tables
"""
