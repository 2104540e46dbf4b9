"""The ledger of rehearsal: a compressed log of what the buffers held, from which draws are computed again.

    on each rank    recorder    what its rounds published and what it was offered, in memory
                    block       512 rounds of that, compressed
                    file        blocks in a file of the run's directory, from one checkpoint to the next
    afterwards      replay      the tables of all ranks at a round, and what was drawn from them

A draw is a function of seed, rank, round and counts (`drb.sampling.sampler`), so it takes no bytes. What is logged is
which sample took which slot. A sample that was admitted is named by its place in the stream of what the rank was
offered, and that stream is a formula, too, where a `TaskLoader` made it (`dealt`).
"""
