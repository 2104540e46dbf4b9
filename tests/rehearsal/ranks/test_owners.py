"""With one owner per sample, no exemplar is stored twice, over any number of epochs."""

from __future__ import annotations

import torch
from ranks import run_ranks
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from drb import OwnerSampler, Rehearsal, with_ids


def epochs(rank, world_size, owners):
    images = torch.arange(400).to(torch.uint8).reshape(400, 1, 1, 1).expand(400, 1, 2, 2)
    dataset = with_ids(TensorDataset(images, torch.arange(400) % 4))
    sampler = OwnerSampler(dataset, seed=0) if owners else DistributedSampler(dataset, seed=0)
    loader = DataLoader(dataset, batch_size=20, sampler=sampler)
    with Rehearsal(capacity=40, exemplars=5, seed=0, verbose=False) as rehearsal:
        for epoch in range(10):
            sampler.set_epoch(epoch)
            for minibatch in loader:
                batch = rehearsal.extend(minibatch)
        share = rehearsal.duplicate_share()
        stats = rehearsal.stats()
        assert len(batch["image"]) == 25
        return share, stats["stored_total"], stats["distinct_total"], rehearsal.sample_ids().tolist()


def test_ten_epochs_on_four_ranks_store_every_exemplar_once():
    results = run_ranks(epochs, 4, True)
    assert {(share, stored, distinct) for share, stored, distinct, _ in results} == {(0.0, 160, 160)}
    assert len({i for *_, ids in results for i in ids}) == 160


def test_reshuffled_shards_would_store_the_same_samples_on_every_rank():
    share, stored, distinct, _ = run_ranks(epochs, 4, False)[0]
    assert share > 0.5
    assert distinct < stored
