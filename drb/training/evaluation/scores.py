"""What the network can do after each task, on every task seen so far, in each of the objective's metrics.

R[i][j]: the score on task j's test set after training task i. Before task i is trained, R[i-1][i] (zero-shot) and b[i]
(the starting network) are evaluated for FWT: accuracies over all classes are zero by construction when a task brings
new classes, hence metrics with only the task's classes allowed, too.
"""

from __future__ import annotations

from statistics import fmean
from typing import Any

from torch import Tensor, nn

from drb.data.datasets import Source
from drb.data.scenarios.task import Task
from drb.distributed.world import World
from drb.training.augment import Preprocess
from drb.training.evaluation.evaluate import eval_mode, evaluate
from drb.training.evaluation.knn import KNN, knn_accuracy
from drb.training.evaluation.metrics import ScoreMatrix
from drb.training.method.method import Method
from drb.training.objectives.objective import Metric, Objective
from drb.training.settings import TrainingSettings
from drb.types import Minibatch


class Scores:
    """Evaluates, and keeps what came out. Every evaluating method is collective."""

    def __init__(
        self,
        objective: Objective,
        method: Method,
        preprocess: Preprocess,
        world: World,
        training: TrainingSettings,
    ) -> None:
        """
        Args:
            method: says which network is evaluated, and what it predicts.
            training: how many rows are evaluated at a time, and of how many neighbours `knn` is the accuracy.
        """
        self._objective = objective
        self._method = method
        self._preprocess = preprocess
        self._world = world
        self._batch_size, self._neighbours = training.eval_batch_size, training.knn
        self._metrics = (*objective.metrics, *([KNN] if training.knn else []))
        self._seen: list[Task] = []
        self.matrices = {metric.name: _matrix_of(metric) for metric in self._metrics}
        self.validation = _matrix_of(self.metric)
        self.during_tasks: list[tuple[int, float]] = []  # optimisation steps, mean score

    @property
    def metric(self) -> Metric:
        """The one that counts."""
        return self._objective.metrics[0]

    @property
    def main(self) -> ScoreMatrix:
        """Its matrix."""
        return self.matrices[self.metric.name]

    @property
    def task_names(self) -> list[str]:
        return [task.name for task in self._seen]

    def skip(self, task: Task) -> None:
        """A task that was trained and evaluated before this run was resumed."""
        self._seen.append(task)

    def before(self, task: Task, network: nn.Module, starting_network: nn.Module) -> None:
        """b[i] and, but for the first task, the zero-shot R[i-1][i]. Both networks' heads have already grown."""
        home = next(starting_network.parameters()).device
        starting = self._evaluate(starting_network.to(self._world.device), task, task.test)
        starting_network.to(home)
        for metric in self._objective.metrics:
            if metric.has_baseline:
                self.matrices[metric.name].baseline(task.index, starting[metric.name])
        if task.index > 0:
            values = self._evaluate_method(self._evaluated(network), task, task.test)
            names = [metric.name for metric in self._objective.metrics if metric.zero_shot]
            self._add(task.index - 1, task.index, {name: values[name] for name in names})

    def after(self, task: Task, network: nn.Module) -> None:
        """R[i][j] for every task j seen so far, this one included."""
        self._seen.append(task)
        evaluated = self._evaluated(network)
        for seen in self._seen:
            self._add(task.index, seen.index, self._evaluate_method(evaluated, seen, seen.test))
            if seen.validation is not None:
                held_out = self._evaluate_method(evaluated, seen, seen.validation)
                self.validation.add(task.index, seen.index, held_out[self.metric.name])
            if self._neighbours:
                self._add(task.index, seen.index, {KNN.name: self._knn(evaluated, seen)})

    def during(self, task: Task, network: nn.Module, steps: int) -> float:
        """The mean score over the tasks so far in the midst of this one, after so many optimisation steps.

        Each rank evaluates its share of the samples with the running statistics that it has at that moment.
        """
        evaluated = self._evaluated(network)
        values = [self._evaluate_method(evaluated, seen, seen.test)[self.metric.name] for seen in [*self._seen, task]]
        self.during_tasks.append((steps, fmean(values)))
        return self.during_tasks[-1][1]

    def latest(self) -> dict[str, float]:
        """The numbers of the last evaluation, named as a tracker shows them."""
        last = len(self._seen) - 1
        values: dict[str, float | None] = {f"{self.metric.name}/mean": self.main.mean_after(last)}
        for name, matrix in self.matrices.items():
            row = matrix.rows()[last]
            values |= {f"{name}/task_{task.number}": row[task.index] for task in self._seen}
        if self._seen[last].validation is not None:
            values["validation/mean"] = self.validation.mean_after(last)
        values |= {"bwt": self.main.bwt(), "fwt": self.main.fwt(), "forgetting": self.main.forgetting()}
        return {name: value for name, value in values.items() if value is not None}

    def summary(self) -> dict[str, Any]:
        """The entries of summary.json that come from evaluation; None where undefined.

        acc, baselines, bwt, fwt and forgetting are those of `metric`, the one that counts. anytime: its mean over the
        evaluations in the midst of tasks, of which `during` gives the steps and values.
        """
        summary: dict[str, Any] = {
            "metric": self.metric.name,
            "higher_is_better": self.metric.higher_is_better,
            "bounds": self.metric.bounds,
            "baselines": self.main.baselines(),
            "acc": self.main.acc(),
            "bwt": self.main.bwt(),
            "fwt": self.main.fwt(),
            "forgetting": self.main.forgetting(),
            "task_names": self.task_names,
        }
        for metric in self._metrics:
            matrix = self.matrices[metric.name]
            rows = matrix.rows()
            summary[f"{metric.name}_matrix"] = (
                rows if metric.zero_shot else [row[: i + 1] for i, row in enumerate(rows)]
            )
            if metric is not self.metric:
                summary[f"acc_{metric.name}" if metric.has_baseline else metric.name] = matrix.acc()
                if metric.has_baseline:
                    summary[f"fwt_{metric.name}"] = matrix.fwt()
        if self.during_tasks:
            summary["anytime"] = fmean(value for _, value in self.during_tasks)
            summary["during"] = [list(point) for point in self.during_tasks]
        if self.validation.num_tasks:
            summary["validation_matrix"] = self.validation.rows()
        return summary

    def held_out(self) -> list[list[float]]:
        """The score on each task's held-out samples after each task so far: [i][j] with j ≤ i; none if none are."""
        rows = [row[: number + 1] for number, row in enumerate(self.validation.rows())]
        return [[value for value in row if value is not None] for row in rows]

    def state_dict(self) -> dict[str, Any]:
        """The numbers; the tasks come from the stream again (`skip`)."""
        matrices = {**self.matrices, "validation": self.validation}
        saved = {name: matrix.state_dict() for name, matrix in matrices.items()}
        return {**saved, "during": [list(point) for point in self.during_tasks]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, matrix in {**self.matrices, "validation": self.validation}.items():
            matrix.load_state_dict(state[name])
        self.during_tasks = [(int(step), float(value)) for step, value in state["during"]]

    def _evaluated(self, network: nn.Module) -> nn.Module:
        with eval_mode(network):
            return self._method.evaluated_network(network)

    def _evaluate_method(self, network: nn.Module, task: Task, source: Source) -> dict[str, float]:
        return self._evaluate(network, task, source, predict=self._method.predict)

    def _evaluate(self, network: nn.Module, task: Task, source: Source, **options: Any) -> dict[str, float]:
        return evaluate(
            network,
            source,
            self._objective,
            preprocess=self._preprocess,
            device=self._world.device,
            batch_size=self._batch_size,
            world=self._world,
            classes=task.classes,
            **options,
        )

    def _knn(self, network: nn.Module, task: Task) -> float:
        return knn_accuracy(
            network,
            task.train,
            task.test,
            prepare=self._inputs_and_labels,
            neighbours=self._neighbours,
            batch_size=self._batch_size,
            world=self._world,
        )

    def _inputs_and_labels(self, minibatch: Minibatch) -> tuple[Any, Tensor]:
        moved = {name: field.to(self._world.device, non_blocking=True) for name, field in minibatch.items()}
        return self._preprocess.evaluate(self._objective.inputs(moved)), self._objective.labels(moved)

    def _add(self, after: int, on: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self.matrices[name].add(after, on, value)


def _matrix_of(metric: Metric) -> ScoreMatrix:
    return ScoreMatrix(higher_is_better=metric.higher_is_better, bounds=metric.bounds)
