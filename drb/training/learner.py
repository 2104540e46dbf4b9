"""The network that learns, its optimizer, and how gradients reach it from all ranks.

One forward through DDP per backward, on the whole batch; whatever else a method computes goes past it. DDP averages
gradients over ranks; a batch weights its loss so that this average is the gradient of the mean over all rows of all
ranks (see `drb.training.method.batch`).
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.parallel import DistributedDataParallel

from drb.distributed.world import World
from drb.training.finite import FiniteCheck
from drb.training.method.needs import Phase
from drb.training.method.parameters import Gradient, ParameterVector, Weights
from drb.training.method.structure import map_tensors, zero_of, zeros_of_shapes
from drb.training.models import Network
from drb.training.optimizer_state import carry_state, load_named_state, named_state
from drb.training.optimizers import OptimizerBuilder
from drb.training.sharding import require_whole
from drb.training.statistics import RunningStatistics

# the same setting under its new name where there is one: no broadcast of buffers at every forward
_HAS_NEW_NAME = "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
_KEEP_OWN_BUFFERS: dict[str, Any] = {"forward_sync_buffers" if _HAS_NEW_NAME else "broadcast_buffers": False}
_PLAIN = Phase()
_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Learner:
    """Owns the network on its device, its DDP wrapper (only with several ranks) and its optimizer."""

    def __init__(
        self,
        network: Network,
        optimizer: OptimizerBuilder,
        world: World,
        *,
        precision: str = "fp32",
        channels_last: bool = False,
        clip_norm: float | None = None,
        sync_bn: bool = False,
        finite: FiniteCheck | None = None,
    ) -> None:
        """Takes the network to the world's device.

        Args:
            precision: fp32, bf16 or fp16 (autocast; fp16 with loss scaling, on CUDA only).
            clip_norm: gradients of a larger norm are scaled down to it.
            sync_bn: batch norms compute their statistics over all ranks (CUDA only).
            finite: what to do where a loss or a gradient is not.
        Raises:
            ValueError: fp16 or sync_bn without CUDA; a network whose parameters are sharded (FSDP2).
        """
        device = world.device
        if device.type != "cuda" and (precision == "fp16" or sync_bn):
            setting = "sync_bn=true" if sync_bn else "precision=fp16"
            raise ValueError(f"{setting} needs CUDA, but this run's device is {device.type}")
        self._world = world
        self._builder = optimizer
        self._autocast_dtype = _AUTOCAST.get(precision)
        self._scaler = torch.amp.GradScaler(device.type) if precision == "fp16" else None
        self._memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self._clip_norm = clip_norm
        self._sync_bn = sync_bn
        self._finite = finite or FiniteCheck("stop", world, loss_scaling=self._scaler is not None)
        self._shapes: Any = None  # of a sample, in the last forward
        self._settled_by: Any = None  # those of a backward pass through the present wrapper
        self.restart(network)

    def restart(self, network: Network) -> None:
        """Go on with another network and a new optimizer."""
        require_whole(network)
        if self._sync_bn and self._world.world_size > 1:
            network = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        self.network = network.to(self._world.device).to(memory_format=self._memory_format)
        self._phase = _PLAIN
        self._frozen: list[Tensor] = []
        self.optimizer = self._builder.for_network(self.network, self._world.world_size)
        self._wrap()

    def grow(self, num_outputs: int, seed: int, adapt: Callable[[Network], bool] = lambda network: False) -> None:
        """Let the head have at least so many outputs; old rows keep their weights and their optimizer state.

        adapt: may change parameters, too, and says whether it may have.
        """
        old_parameters: dict[str, Tensor] = dict(self.network.named_parameters())
        has_grown = self.network.grow(num_outputs, seed)
        if not (adapt(self.network) or has_grown):
            return
        self.network.to(self._world.device)
        old, self.optimizer = self.optimizer, self._builder.for_network(self.network, self._world.world_size)
        carry_state(old, old_parameters, self.optimizer, dict(self.network.named_parameters()))
        self._wrap()

    def begin_phase(self, phase: Phase) -> None:
        """Train what the phase says, by its optimizer. If that is another than now, its state begins anew."""
        if phase.trains_like(self._phase):
            return
        self._phase = phase
        for parameter in self._frozen:
            parameter.requires_grad_(True)
        named = self.network.named_parameters()
        others = [p for name, p in named if phase.trainable is not None and not name.startswith(phase.trainable)]
        self._frozen = [parameter.requires_grad_(False) for parameter in others if parameter.requires_grad]
        self.optimizer = phase.optimizer_for(self.network, self._builder, self._world.world_size)
        self._wrap()

    def end_phases(self) -> None:
        """Train all of the network by the run's optimizer again."""
        self.begin_phase(_PLAIN)

    def train(self) -> None:
        """Train mode, but eval mode for modules of which nothing is trained: their statistics stay as they are."""
        self.network.train()
        for module in self.network.modules():
            parameters = list(module.parameters())
            if parameters and not any(parameter.requires_grad for parameter in parameters):
                module.eval()

    @property
    def rate(self) -> float:
        """The learning rate of the next step."""
        return float(self.optimizer.param_groups[0]["lr"])

    def scale_rate(self, factor: float) -> None:
        """Multiply the rate that the optimizer was made with, of each of its groups."""
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor

    def autocast(self) -> contextlib.AbstractContextManager[None]:
        """The precision of forwards and losses."""
        if self._autocast_dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self._world.device.type, self._autocast_dtype)

    def forward(self, inputs: Any) -> Any:
        """The outputs in float32, through DDP: inside the loss of `backward`, once."""
        self._shapes = map_tensors(lambda tensor: list(tensor.shape[1:]), inputs)
        return map_tensors(Tensor.float, self._forward(inputs))

    def extra_forward(
        self, inputs: Any, *, network: nn.Module | None = None, weights: Mapping[str, Tensor] | None = None
    ) -> Any:
        """Outputs in float32 past DDP, without a change of running statistics: the network works on copies of them.

        Args:
            network: another one than this learner's. weights: by name, in place of its own.
        """
        network = self.network if network is None else network
        buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
        with self.autocast():
            outputs = functional_call(network, {**(weights or {}), **buffers}, (inputs,))
        return map_tensors(Tensor.float, outputs)

    def gradient_of(self, loss: Callable[[], Tensor]) -> Gradient:
        """The gradient of a loss of `extra_forward`s on this rank. Neither DDP nor the parameters' own take notice."""
        trainable = {name: p for name, p in self.network.named_parameters() if p.requires_grad}
        with self.autocast():
            value = loss()
        if self._scaler is not None:
            value = self._scaler.scale(value)
        gradients = torch.autograd.grad(value, list(trainable.values()), allow_unused=True)
        scale = 1.0 if self._scaler is None else self._scaler.get_scale()
        return ParameterVector(
            {
                name: torch.zeros_like(parameter) if gradient is None else gradient / scale
                for (name, parameter), gradient in zip(trainable.items(), gradients, strict=True)
            }
        )

    def backward(self, loss: Callable[[], Tensor], *, more: bool = False) -> Tensor:
        """One forward and backward; gradients add up until `step`.

        A batch without rows takes part in the exchange of gradients with zeros.

        Args:
            loss: calls `forward` once and gives a scalar, weighted by the batch's part in the step.
            more: another batch follows before `step`, so ranks need not exchange gradients yet.
        Returns:
            The loss, detached, still on the device.
        """
        with self._no_sync() if more else contextlib.nullcontext():
            with self.autocast():
                value = loss()
            start = self._finite.start_of_backward(value)
            (value if self._scaler is None else self._scaler.scale(value)).backward(start)  # type: ignore[no-untyped-call]
        if not more:
            self._settled_by = self._shapes
        return value.detach()

    def step(self, rescale: float = 1.0, change: Callable[[Weights, Gradient], None] | None = None) -> bool:
        """One step of the optimizer on the gradients times `rescale`, then none are left.

        Args:
            change: is given the weights and the gradient, which is that of all ranks, to be changed in place.
        Returns:
            Whether the weights moved: not if gradients are not finite and such steps are skipped, as with fp16 they
            always are. Alike on all ranks.
        Raises:
            NonFiniteError: they are not, and the run is to stop.
        """
        gradients = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
        if rescale != 1.0:
            for gradient in gradients:
                gradient.mul_(rescale)
        if self._scaler is not None:
            self._scaler.unscale_(self.optimizer)
        if change is not None:
            change(ParameterVector.weights_of(self.network), ParameterVector.gradient_of(self.network))
        norm = None
        if self._clip_norm is not None:
            norm = nn.utils.clip_grad_norm_(self._parameters, self._clip_norm)
        is_allowed = self._finite.allows_update(gradients, norm)
        # a GradScaler has looked at the gradients only before they were changed
        has_moved = is_allowed if self._scaler is None else self._finite.are_finite(gradients)
        if has_moved:
            self.optimizer.step()
        if self._scaler is not None:
            self._scaler.update()
        self.optimizer.zero_grad()
        self._statistics.keep() if is_allowed else self._statistics.restore()
        return has_moved

    def average_statistics(self) -> None:
        """Give all ranks the mean of their running statistics (batch norms), so that they evaluate one network.

        Collective. During training each rank keeps its own, which costs no message.
        """
        self._statistics.average(self._world.world_size)

    # -- state

    def state_dict(self) -> dict[str, Any]:
        """What is alike on all ranks, but for the network's weights. `settled_by`: see `_settle`."""
        return {
            "optimizer": named_state(self.optimizer, self.network),
            "scaler": None if self._scaler is None else self._scaler.state_dict(),
            "settled_by": self._settled_by,
        }

    def statistics(self) -> dict[str, Tensor]:
        """This rank's buffers by name (running statistics of batch norms): ranks' differ while they train."""
        saved = self.network.state_dict()
        return {name: saved[name] for name, _ in self.network.named_buffers() if name in saved}

    def load_state_dict(
        self, state: Mapping[str, Any], weights: Mapping[str, Tensor], own: Mapping[str, Tensor]
    ) -> None:
        """Go on from there. weights: of the network, by name; own: this rank's `statistics`."""
        if state["settled_by"] is not None:
            self._settle(state["settled_by"])
        self.network.load_state_dict({**weights, **own})
        load_named_state(state["optimizer"], self.optimizer, self.network)
        if self._scaler is not None and state["scaler"] is not None:
            self._scaler.load_state_dict(state["scaler"])
        self._statistics.keep()

    def _settle(self, shapes: Any) -> None:
        """Let DDP have seen a backward pass, as it had before.

        After the first one it orders gradients anew in its buckets. An element's place in a message decides in which
        order three or more ranks' values are added, so without this the first step would round differently.
        """
        zeros = zeros_of_shapes(shapes, 2, self._world.device)
        outputs = self.forward(map_tensors(self.as_laid_out, zeros))
        zero_of(outputs).backward()  # type: ignore[no-untyped-call]
        self.optimizer.zero_grad()
        self._settled_by = shapes

    def as_laid_out(self, tensor: Tensor) -> Tensor:
        """Images in the network's memory format; other tensors as they are."""
        return tensor.contiguous(memory_format=self._memory_format) if tensor.dim() == 4 else tensor

    def _wrap(self) -> None:
        self._parameters = list(self.network.parameters())
        self._statistics = RunningStatistics(self.network, can_restore=self._finite.policy == "skip")
        self._settled_by = None
        self._forward: Callable[[Tensor], Tensor] = self.network
        self._no_sync: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext
        if self._world.world_size == 1:
            return
        device = self._world.device
        wrapped = DistributedDataParallel(
            self.network,
            device_ids=[device] if device.type == "cuda" else None,
            gradient_as_bucket_view=True,
            **_KEEP_OWN_BUFFERS,
        )
        self._forward, self._no_sync = wrapped, wrapped.no_sync
