"""Exemplars that are chosen at a task's end by clusters, inducing points or densities: alike on any number of ranks."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from ranks import run_ranks
from training.method.replay import Pair, Replay
from training.method.runs import SAMPLES, case
from training.parts import small_dataset

from drb.coreset.inducing_points import error
from drb.coreset.kmeans import kmeans, medoids
from drb.distributed.world import World
from drb.training.strategies import ExperienceReplay
from drb.training.terms import TERMS, ClusterStorage

TOTAL = 12  # exemplars of all ranks


PARTS: dict[str, tuple[str, dict[str, Any]]] = {
    "clusters": ("cluster_storage", {}),
    "features": ("cluster_storage", {"features": "network", "steps": 3}),
    "points": ("cluster_storage", {"inducing_points": 2}),
    "density": ("density_storage", {"dimensions": 3, "neighbours": 3, "outliers": 0.2}),
    "map": ("density_storage", {"map": "tsne"}),
    "weighted": ("cluster_storage", {}),
    "noise": ("cluster_storage", {"noise": 0.5, "steps": 2}),
}
ALONE = World()


def method(name: str) -> tuple[Any, list[Any]]:
    term, options = PARTS[name]
    return ExperienceReplay(by_mass=name == "weighted"), [TERMS.build(term, options)]


def run_all(rank: int, world_size: int, names: list[str]) -> dict[str, Any]:
    rehearsal = {"capacity": TOTAL // world_size}
    cases = {name: (functools.partial(method, name), {"rehearsal": rehearsal}) for name in names}
    wanted = ("stored", "first", "again", "batches", "weights")
    return {name: {key: found[key] for key in wanted} for name, found in case(rank, world_size, cases).items()}


ON_RANKS = {1: ["clusters", "points", "density"], 2: [name for name in PARTS if name != "map"], 3: ["clusters"]}


@functools.cache
def results(world_size: int, only: str = "") -> list[dict[str, Any]]:
    return run_ranks(run_all, world_size, [only] if only else ON_RANKS[world_size], timeout=100)


def of_part(world_size: int, name: str) -> list[dict[str, Any]]:
    """The results of the ranks; t-SNE, which is slow to import, has ranks of its own."""
    return [result[name] for result in results(world_size, name if name == "map" else "")]


def union(world_size: int, name: str) -> dict[str, Any]:
    """What all ranks store together, by id."""
    parts = [found["stored"] for found in of_part(world_size, name) if found["stored"]]
    joined = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    order = np.argsort(joined["sample_id"])
    return {key: value[order] for key, value in joined.items()}


def pixels() -> tuple[torch.Tensor, torch.Tensor]:
    data = small_dataset(SAMPLES).train
    return data.gather(np.arange(SAMPLES))["image"].flatten(1), torch.from_numpy(data.labels)


def clustered(ids: torch.Tensor, size: int, mass: torch.Tensor | None = None) -> dict[int, float]:
    points = pixels()[0][ids]
    clusters = kmeans(points, ids, size, ALONE, weights=mass, steps=30)
    return dict(zip(medoids(points, ids, clusters, ALONE).tolist(), clusters.masses.tolist(), strict=True))


def expected_clusters(size: int, first_size: int) -> dict[int, float]:
    """By id its mass: classes of the first task were divided in `first_size` first, and those divided again."""
    expected: dict[int, float] = {}
    for label in range(4):
        of_class = clustered((pixels()[1] == label).nonzero()[:, 0], first_size if label < 2 else size)
        if label < 2 and first_size > size:
            ids = torch.tensor(sorted(of_class))
            of_class = clustered(ids, size, torch.tensor([of_class[i] for i in ids.tolist()]))
        expected |= of_class
    return expected


def test_each_class_keeps_its_medoids_with_their_masses_and_clusters_them_again_when_it_has_to_give_some_up():
    for world_size in (1, 2, 3):
        stored = union(world_size, "clusters")
        found = dict(zip(stored["sample_id"].tolist(), stored["mass"][:, 0].tolist(), strict=True))
        assert found == expected_clusters(TOTAL // 4, TOTAL // 2)
        for label in range(4):
            assert stored["mass"][stored["label"] == label].sum() == (pixels()[1] == label).sum()


@pytest.mark.parametrize(
    "name", ["clusters", "features", "points", "density", pytest.param("map", marks=pytest.mark.full)]
)
def test_what_is_kept_does_not_depend_on_the_ranks_and_is_the_same_after_a_resume(name):
    for world_size in (1, 2) if name == "map" else [size for size, names in ON_RANKS.items() if name in names]:
        stored = union(world_size, name)
        size = 2 if name == "points" else TOTAL // 4
        assert np.bincount(stored["label"]).tolist() == [size] * 4
        assert len(set(stored["sample_id"].tolist())) == 4 * size
        if name != "features":  # which depend on the weights
            for key, value in union(1, name).items():
                np.testing.assert_array_equal(stored[key], value, err_msg=f"{name}.{key} on {world_size} ranks")
        for found in of_part(world_size, name):
            assert found["again"] == found["first"]


def test_inducing_points_are_stored_in_bytes_and_tell_more_about_the_data():
    images, labels = pixels()
    stored = union(2, "points")
    assert stored["image"].dtype == np.uint8
    start = images[torch.from_numpy(stored["sample_id"])]
    changed = (torch.from_numpy(stored["image"]).flatten(1) != start).any(1)
    assert changed.all()

    def left(points: torch.Tensor, task: list[int]) -> float:
        among = torch.isin(labels, torch.tensor(task))
        of = torch.from_numpy(stored["label"])
        some = torch.isin(of, torch.tensor(task))
        targets = [F.one_hot(each, 4).double() - 0.25 for each in (of[some], labels[among])]
        return float(error(points[some] / 255, targets[0], images[among].double() / 255, targets[1], 1e-3))

    given = torch.from_numpy(stored["image"]).flatten(1).double()
    assert left(given, [0, 1]) < 0.8 * left(start.double(), [0, 1])  # what the first task's points were fitted to


def test_noisy_centroids_are_no_samples_and_say_what_they_spend():
    stored, (images, labels) = union(2, "noise"), pixels()
    assert 4 <= len(stored["label"]) <= TOTAL
    for image, sample, label in zip(stored["image"], stored["sample_id"], stored["label"], strict=True):
        assert labels[sample] == label
        assert not (images == torch.from_numpy(image).flatten()).all(1).any()
    assert ClusterStorage(noise=10.0, steps=3).epsilon == pytest.approx(0.67, abs=0.2)
    assert ClusterStorage().epsilon == np.inf


def test_losses_are_weighted_by_mass_where_that_is_asked_for():
    replay = Replay(of_part(2, "weighted"))

    def of_batch(pair: Pair) -> torch.Tensor:
        total, count = 0.0, 0
        for batch in pair:
            fields = batch["fields"]
            losses = F.cross_entropy(replay.outputs(fields), torch.from_numpy(fields["label"]), reduction="none")
            weights = torch.ones(len(losses))
            if len(losses) > batch["new"]:
                mass = torch.from_numpy(fields["mass"][batch["new"] :, 0])
                weights[batch["new"] :] = mass / mass.mean()
            total, count = total + (losses * weights).sum(), count + len(losses)
        return total / count

    replay.run_loss(of_batch)
    with pytest.raises(ValueError, match=r"which nothing stores: add terms=\[cluster_storage\]"):
        ExperienceReplay(by_mass=True)._masses({})


def test_while_a_task_is_trained_its_own_rows_are_not_rehearsed():
    for batch in of_part(2, "clusters")[0]["batches"]:
        old = batch["fields"]["label"][batch["new"] :]
        assert not len(set(old.tolist()) & set(batch["fields"]["label"][: batch["new"]].tolist()))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"inducing_points": 3, "noise": 1.0}, "choose one of them"),
        ({"inducing_points": 3, "features": "network"}, "inducing_points makes inputs: set .*features=pixels"),
        ({"noise": 1.0, "features": "network"}, "noise makes inputs"),
        ({"inducing_points": 11}, "inducing_points must be at least 1 and at most 10, got 11"),
    ],
)
def test_what_cannot_be_combined_is_said_in_one_line(options, message):
    with pytest.raises(ValueError, match=message):
        TERMS.build("cluster_storage", options)
