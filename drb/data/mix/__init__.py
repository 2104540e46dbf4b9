"""The mix: samples of several sources in an order that is a formula of (seed, position), not of what happened.

shares    whose turn it is: integer shares, each source within one sample of its share in every prefix
order     which sample that is: keyed permutations of a source, within owners that no number of ranks changes
timeline  what was asked from when on: shares, sizes, steps; the few numbers that a run saves
spread    whether every rank has a sample in every step
mix       the order of the whole run, by step and rank
audit     which samples a step had, which steps a sample was in, and what shares came about
dataset   all of that for a training loop: `drb.MixedSource`
"""

from drb.data.mix.audit import Mixture, mixture, samples_of_step, steps_of_sample
from drb.data.mix.dataset import MixedSource, MixSampler
from drb.data.mix.following import Part
from drb.data.mix.mix import Mix, Rows
from drb.data.mix.state import mix_from, state_of

__all__ = [
    "Mix",
    "MixSampler",
    "MixedSource",
    "Mixture",
    "Part",
    "Rows",
    "mix_from",
    "mixture",
    "samples_of_step",
    "state_of",
    "steps_of_sample",
]
