"""The rehearsal: what a training loop calls. See `Rehearsal`.

Everything but the settings is made at the first minibatch, which shows what a record is: until then there is an
`Unstarted` (`drb.rehearsal.unstarted`), from then on a `Running`. `drb.rehearsal.step` has the order of things in a
step, `drb.rehearsal.round` what happens meanwhile on the worker.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import fields
from typing import Any, ClassVar, Literal

import torch
import torch.distributed as dist
from torch import Tensor

from drb.buffer.admission import Admission
from drb.buffer.record import Field, RecordSpec
from drb.exchange import Transport, open_peers
from drb.rehearsal.build_parts import PartsFactory
from drb.rehearsal.cuda import Device
from drb.rehearsal.edit import Edit
from drb.rehearsal.forget import ForgetObserver
from drb.rehearsal.intake import REHEARSED
from drb.rehearsal.known import Known
from drb.rehearsal.lifetime import TWO_THREADS
from drb.rehearsal.selection import SampleIds, Where
from drb.rehearsal.settings import RehearsalSettings
from drb.rehearsal.state.origin import group_of
from drb.rehearsal.unstarted import Unstarted
from drb.sampling.proportions import Proportions
from drb.types import Exemplars, Handle, Minibatch, OwnerOf


class Rehearsal(Known):
    """A distributed rehearsal buffer for a training loop of one's own. A context manager.

        with Rehearsal(capacity=500, exemplars=7, seed=0) as rehearsal:
            for minibatch in loader:                    # {"image", "label", "sample_id"}, b rows
                batch = rehearsal.extend(minibatch)     # b + r rows, and "rehearsed"

    Every rank makes the same calls in the same order; `extend`, `step` and `close` are collective.

    Args:
        capacity: of this rank's buffer: exemplars (500), memory ("20GiB") or a share of the data ("30%").
        exemplars: drawn per rank and round (r); every rank gets exactly min(r, union). "auto" or "auto:64": the largest
            r up to 64 (or the minibatch's rows) whose rounds stay hidden, measured in the first steps.
            "auto:accuracy:0.01:64": the least that keeps what was learnt, by feedback (docs/which_past.md).
        seed: of admission and draws; the same on all ranks.
        spec: the schema, {name: Field | (dtype, shape)}; by default the first minibatch's. Needed for late fields.
        capacity_scope: `rank`, or `total`: capacity is split over the ranks, the remainder to the low ones.
        candidates: samples per minibatch that are considered for admission; only for random_replacement.
        admission: reservoir, class_balanced, mean_matching, random_replacement or fifo; or one of your own, as a
            dotted path, a class or an object (docs/extending.md), as may be proportions and exchange.
        max_age: exemplars expire when they are older: steps (1000) or a time ("12h", "30d"); None: never.
        refill: what takes slots that were freed. none: what would be stored anyhow (unbiased); recent: what comes next.
        proportions: what is drawn: uniform, stream, balanced, or by what `feedback` tells (docs/which_past.md).
        exchange: auto, loopback, collective, shared, hierarchical, rma (one-sided MPI) or nccl (GPU to GPU).
        storage: where rows lie: host, device (docs/gpu.md), auto, or mmap, a file on a disk (docs/storage.md).
        storage_folder: for storage=mmap: a folder on each node's own disk, which is this run's alone.
        device_share: storage=auto is device if the buffer takes no more than this share of what is free there.
        stratum: the integer field by which exemplars are counted, if there is one.
        sample_id: the int64 field that identifies samples in the whole stream; "arrival": every offer is new.
        asynchronous: True: rounds on a worker thread, behind the step; False: in extend or step. "auto": False for one
            rank, if its rows lie on a GPU or a round's are at most 1 MiB, and on a node that has no core for a thread.
        process_group: the ranks that share their buffers; by default all. drb opens a Gloo group of its own.
        min_fill: no exemplars before the union holds so many; then always r, for fixed batch shapes.
        uneven: what happens when ranks stop at different steps. `error`: all are told. `stop`: all stop at the
            first end, by `extend` returning None; every call then waits until all ranks have made it.
        timeout_s: how long a round waits for the slowest rank.
        depth: rounds in flight; more than 1 hides rounds that now and then take longer than a step.
        interval: steps per round, which draws r exemplars for each of them: less work where steps take few
            milliseconds. The first depth · interval steps have no exemplars.
        draws: independent draws of r exemplars per step (D): each is distinct inside, a sample may come in several.
        importance: know the weights of `importance`. Distinct offers are then counted, in up to 3 MB.
        batch_size: the largest minibatch's rows, if the first is not the largest.
        num_samples: of the whole stream; for a capacity given as a share.
        data: a fingerprint of the data, alike on all ranks; a state of other data is refused.
        prefilled: a folder that `drb prefill` has filled: its samples are drawn, too, and not stored (docs/prefill.md).
        device: where extend and step return, as "cuda" (docs/gpu.md); None: where the first minibatch lies.
        verbose: print what was chosen and what memory it takes, on rank 0.
    """

    _factory: ClassVar[PartsFactory] = PartsFactory()  # builds the parts

    def __init__(
        self,
        capacity: int | str,
        exemplars: int | str,
        *,
        seed: int = 0,
        spec: RecordSpec | Mapping[str, Field | tuple[torch.dtype, tuple[int, ...]]] | None = None,
        capacity_scope: str = "rank",
        candidates: int | None = None,
        admission: str | type[Admission] | Admission = "reservoir",
        max_age: int | str | None = None,
        refill: str = "none",
        proportions: str | type[Proportions] | Proportions = "uniform",
        exchange: str | type[Transport] | Transport = "auto",
        storage: str = "auto",
        storage_folder: str | None = None,
        device_share: float = 0.25,
        stratum: str | None = "label",
        sample_id: str = "sample_id",
        asynchronous: bool | Literal["auto"] = "auto",
        process_group: dist.ProcessGroup | None = None,
        min_fill: int = 1,
        uneven: str = "error",
        timeout_s: float = 300.0,
        depth: int = 1,
        interval: int = 1,
        draws: int = 1,
        importance: bool = False,
        batch_size: int | None = None,
        num_samples: int | None = None,
        data: str | None = None,
        prefilled: str | None = None,
        device: str | int | torch.device | Device | None = None,
        verbose: bool = True,
    ) -> None:
        arguments = locals()
        self.settings = RehearsalSettings(**{field.name: arguments[field.name] for field in fields(RehearsalSettings)})
        self.forget_observers: list[ForgetObserver] = []
        self._verbose = verbose
        self._peers = open_peers(process_group, timeout_s)
        spec = spec if spec is None or isinstance(spec, RecordSpec) else RecordSpec(spec)
        self._unstarted = Unstarted(self.settings, spec, self._peers, self._factory, device, group_of(process_group))
        self._in_step = threading.Lock()  # held during a step

    # -- a step

    def extend(self, minibatch: Minibatch) -> Minibatch:
        """Offer a minibatch and get it back with this step's exemplars behind it: every field [b + r, …].

        The result also has the field `rehearsed`, bool [b + r], False for the first b rows. With draws=D there are
        D · r exemplars, the draws one behind the other. It has b rows until exemplars exist. Its memory is reused two
        calls later, and `rehearsed` is shared between calls: clone what you keep or write to. With uneven="stop" the
        result is None once any rank has no more minibatches: end your loop.
        On a GPU all is queued on the current stream; on the host the result is page-locked where CUDA is present.

        A minibatch of no rows offers nothing and gets exemplars. If a sample id comes twice, its first row counts.

        Raises:
            ValueError: fields that differ from the schema, or late fields that were not attached. The call has changed
                nothing; repeat it with a good minibatch, because the other ranks' rounds wait for this rank's.
            UnevenError: another rank stopped. PeerError: a rank died or stalled.
        """
        if not self._in_step.acquire(blocking=False):
            raise ValueError(TWO_THREADS)
        try:
            running = self._running_with(minibatch)
            if running is None:
                return {**minibatch, REHEARSED: torch.zeros(0, dtype=torch.bool)}
            return running.steps.extend(minibatch)  # type: ignore[return-value]  # None only with uneven="stop"
        finally:
            self._in_step.release()

    def step(self, minibatch: Minibatch) -> Exemplars | None:
        """Offer a minibatch and get this step's exemplars by themselves.

        The next call overwrites the result. It is None until exemplars exist and, with uneven="stop", at the end.
        """
        if not self._in_step.acquire(blocking=False):
            raise ValueError(TWO_THREADS)
        try:
            running = self._running_with(minibatch)
            return None if running is None else running.steps.step(minibatch)
        finally:
            self._in_step.release()

    def attach(self, **late_fields: Tensor) -> None:
        """Give the last minibatch its late fields, [b, …] each: values that exist only after the forward pass.

        Raises:
            ValueError: fields that are not the schema's late ones, or have other rows; nothing was attached.
        """
        self._require_open("attach")
        self._require_running("attach").steps.attach(late_fields)

    def feedback(
        self,
        handle: Handle | None = None,
        *,
        loss: Tensor,
        correct: Tensor | None = None,
        known: Tensor | None = None,
    ) -> None:
        """Tell what was learnt about this step's exemplars, for proportions that draw by it (docs/which_past.md).

        Give it once per step, after the forward and before the next step. Values may lie on a GPU, for which nobody
        waits. They are summed by stratum over all ranks, in messages that are sent anyway, and enter the draws of the
        round that is submitted two steps later. Not collective; without a use for it nothing is done.

        Args:
            handle: `Exemplars.handle` of this step, to be compared; None: they are this step's.
            loss: of each exemplar, in the order given: floating-point [r], with draws=D of all draws.
            correct: whether the network was right about each, bool [r]. Some proportions need it.
            known: which exemplars there is feedback on, bool [r]; None: all.
        Raises:
            ValueError: no exemplars of this step, or given before; another length or kind; a loss that is not finite,
                which for values on a GPU is told by the `extend` two steps later. Nothing was taken.
        """
        self._require_open("give feedback")
        self._require_running("feedback").steps.give_feedback(handle, loss, correct, known)

    def importance(self) -> Tensor:
        """Importance weights of this step's exemplars on this rank, float32 [r] on the host; with importance=True.

        The mean over the exemplars of their weights times any function of a sample is, in expectation, its mean over
        all samples that all ranks have been offered: with any proportions, and if ranks were offered unequally many.
        """
        return self._require_running("importance").importance()

    # -- what is stored

    def edit(self) -> AbstractContextManager[Edit]:
        """Rewrite, remove and insert exemplars between steps: see `drb.rehearsal.edit`. Collective.

        After `load_state_dict` no minibatch need come first; give device= then if minibatches will lie on a GPU.
        """
        self._require_open("edit")
        running = self._running or self._start(None)
        return (running or self._require_running("edit")).edit()

    def forget(self, sample_ids: SampleIds | None = None, *, where: Where | None = None) -> int:
        """Remove samples from all ranks' buffers for good; return how many exemplars that were. Collective.

        Call it between steps. What any rank names is removed on all ranks, zeroed wherever a record may have been (what
        `extend` and `step` returned included), and never stored again. docs/retention.md says what is promised.

        Args:
            sample_ids: integers, in any order; those that are not stored are denied from now on.
            where: {field: value or values}, or a function of named tensors [n, …] that returns bool [n].
        Raises:
            ValueError: late fields are missing, or no proper selection; on all ranks, and nothing was removed.
        """
        self._require_open("forget")
        for observer in self.forget_observers:
            observer.settle()
        current = self._running or self._unstarted
        forgotten = current.forget(sample_ids, where)
        current.deny(forgotten.sample_ids)
        for observer in self.forget_observers:
            current.deny(observer.forget(forgotten.sample_ids, where))
        return forgotten.removed

    # -- state

    def state_dict(self, *, lazy: bool = False) -> dict[str, Any]:
        """Everything that the next steps depend on, as arrays, numbers and strings. Waits for the rounds in flight.

        `torch.load(…, weights_only=True)`, torch's default, reads what `torch.save` has made of it.
        It is collective with exchange=nccl, whose rows are launched for it.
        lazy: the buffer's rows are not copied but read when they are asked for (`drb.buffer.snapshot.LazyRows`), by
        another thread while this one goes on. There is at most one such state at a time; close its rows.
        """
        self._require_open("take its state")
        if self._running is None:
            return self._unstarted.state_dict(lazy=lazy)
        return {**self._running.state_dict(lazy=lazy), "stats": self.stats()}

    def load_state_dict(
        self,
        state: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        owner_of: OwnerOf | None = None,
        *,
        reshard: bool = False,
    ) -> None:
        """Go on from what `state_dict` gave. Call it before the first minibatch and before `begin_task`.

        Args:
            state: the state of this rank, to go on with as many ranks; or a list of the states of all ranks there
                were, to go on with another number. Then every exemplar goes to its new owner, and what does not fit is
                dropped (see `resharded`).
            owner_of: ids -> ranks that will be offered them, int64 [n]: `OwnerSampler.owner_of`; None for "arrival".
            reshard: give every exemplar to its owner also where the states are those of as many ranks: the data, and
                with it the owners, has changed.
        Raises:
            ValueError: states of other settings or another schema, of another rank or of different runs, or that cannot
                be divided.
        """
        if self._running is not None:
            raise ValueError("load_state_dict must come before the first minibatch")
        self._unstarted.load(state, owner_of, reshard)

    @property
    def resharded(self) -> Mapping[str, int] | None:
        """How states of another number of ranks were loaded: `from` how many, exemplars `stored`, `dropped` here."""
        return (self._unstarted.saved or {}).get("resharded")
