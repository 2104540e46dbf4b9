"""What happens when a loss or a gradient is NaN or infinite: `training.on_nonfinite`.

A loss that is not finite starts its backward pass with NaN in place of 1. So its rank's gradients are not finite, and
after DDP's all-reduce nobody's are: every rank decides alike by looking at its own gradients, without a message.
Accumulated batches need nothing more, since a NaN stays in the sum. The look at the gradients is the fused kernel of
torch's GradScaler, one pass, or the norm where gradients are clipped.

On the CPU the outcome is known at once. On a GPU reading it would make the host wait for the backward pass at every
step. So `stop` and `ignore` only keep it on the device, and it is looked at where the host waits anyway: when an
interval is logged, before anything is saved, at a task's end. `skip` has to know, and waits.

With fp16 the GradScaler skips every update whose gradients are not finite, for overflows are its way to find a scale;
there only losses count.
"""

from __future__ import annotations

import math

import torch
import torch.distributed as dist
from torch import Tensor

from drb.distributed.world import World

POLICIES = ("stop", "skip", "ignore")
_NEVER = 1 << 62


class NonFiniteError(ValueError):
    """A loss or a gradient was NaN or infinite; the message names the step and the ranks. Alike on all ranks."""


class FiniteCheck:
    """One per trainer; every rank makes the same calls.

    steps: optimisation steps whose gradients were not finite, alike on all ranks (with fp16: the most steps at which
        the loss of one rank was not finite).
    """

    def __init__(
        self, policy: str, world: World, *, loss_scaling: bool = False, reads_at_once: bool | None = None
    ) -> None:
        """
        Args:
            policy: `stop` raises, `skip` leaves the update out, `ignore` makes it; all count.
            loss_scaling: gradients are a GradScaler's business.
            reads_at_once: the outcome of a step may be read when it is made; by default unless that makes a GPU wait.
        """
        self.policy = policy
        self.steps = 0
        self._world = world
        self._loss_scaling = loss_scaling
        self._at_once = (world.device.type == "cpu" or policy == "skip") if reads_at_once is None else reads_at_once
        self._found = torch.zeros(1, device=world.device)  # 1 if a gradient is not finite
        self._one = torch.ones(1, device=world.device)
        # not looked at yet: how many, and the first one's step
        self._bad_steps = self._none_yet()
        self._bad_losses = self._none_yet()  # of this rank
        self._seen = 0
        self._step = 0

    @property
    def skipped(self) -> int:
        """Steps without an update, as far as known."""
        return self.steps if self.policy == "skip" else 0

    def start_of_backward(self, loss: Tensor) -> Tensor | None:
        """The gradient with which the backward pass of this loss, a scalar, begins; None for 1."""
        if self._at_once:
            if math.isfinite(loss.item()):
                return None
            self._note(self._bad_losses, True, self._step + 1)
            return None if self.policy == "ignore" else torch.full_like(loss, math.nan)
        value = loss.detach()
        self._note(self._bad_losses, ~torch.isfinite(value), self._step + 1)
        return None if self.policy == "ignore" else (value - value) + 1  # inf - inf is NaN

    def allows_update(self, gradients: list[Tensor], norm: Tensor | None) -> bool:
        """Whether the optimizer is to use these gradients, of all ranks together; norm: theirs, if it is known.

        Raises:
            NonFiniteError: with `stop`, where the outcome may be read at once.
        """
        self._step += 1
        if self._loss_scaling:
            return True
        if norm is None:
            torch._amp_foreach_non_finite_check_and_unscale_(gradients, self._found, self._one)
        else:
            self._found += ~torch.isfinite(norm)
        if not self._at_once:
            self._note(self._bad_steps, self._found[0] > 0, self._step)
            self._found.zero_()
            return True
        if self._found.item() == 0:
            return True
        self._found.zero_()
        self.steps += 1
        if self.policy == "stop":
            raise self._error(self._step, self._losses_of_ranks())
        return self.policy == "ignore"

    def are_finite(self, gradients: list[Tensor]) -> bool:
        """Whether all of them are; the host waits for them."""
        found = torch.zeros_like(self._found)
        torch._amp_foreach_non_finite_check_and_unscale_(gradients, found, self._one)
        return found.item() == 0

    def look(self) -> str | None:
        """Return a line about what was found since the last look, None if nothing was. Collective.

        Raises:
            NonFiniteError: with `stop`, if something was.
        """
        first, losses_W2 = _NEVER, None
        if self._loss_scaling:
            losses_W2 = self._losses_of_ranks()
            first = int(losses_W2[:, 1].min())
            self.steps += int(losses_W2[:, 0].max())
        elif not self._at_once:
            found, first = self._bad_steps.tolist()
            self._bad_steps = self._none_yet()
            self.steps += found
        new, self._seen = self.steps - self._seen, self.steps
        if not new:
            return None
        losses_W2 = self._losses_of_ranks() if losses_W2 is None else losses_W2
        if self.policy == "stop":
            raise self._error(first, losses_W2)
        what = "their updates were skipped" if self.policy == "skip" else "their updates were made all the same"
        return (
            f"{new} of the last steps, up to step {self._step}: {self._whose(losses_W2)}; {what} "
            f"(training.on_nonfinite={self.policy}), {self.steps} so far"
        )

    def state_dict(self) -> dict[str, int]:
        return {"steps": self.steps, "step": self._step}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.steps = self._seen = state["steps"]
        self._step = state["step"]

    def _none_yet(self) -> Tensor:
        """int64 [2]: how many and the first one's step."""
        return torch.tensor([0, _NEVER], device=self._world.device)

    @staticmethod
    def _note(what: Tensor, is_bad: Tensor | bool, step: int) -> None:
        """One more, if it is bad; on the device."""
        what[0] += is_bad
        what[1].clamp_(max=torch.where(torch.as_tensor(is_bad, device=what.device), step, _NEVER))

    def _losses_of_ranks(self) -> Tensor:
        """Losses that were not finite since this was last called: int64 [W, 2], number and first step. Collective."""
        world = self._world
        losses_W2 = torch.zeros(world.world_size, 2, dtype=torch.int64, device=world.device)
        losses_W2[world.rank], self._bad_losses = self._bad_losses, self._none_yet()
        if world.world_size > 1:
            dist.all_reduce(losses_W2)
        return losses_W2.cpu()

    def _whose(self, losses_W2: Tensor, step: int | None = None) -> str:
        """Whose losses were not finite, at this step if one is given."""
        is_bad_W = losses_W2[:, 0] > 0 if step is None else losses_W2[:, 1] == step
        ranks = is_bad_W.nonzero().flatten().tolist()
        if not ranks:
            return "the gradients were not finite, though every rank's loss was"
        return f"the loss of rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))} was not finite"

    def _error(self, step: int, losses_W2: Tensor) -> NonFiniteError:
        noticed = "" if step == self._step else f" (noticed after step {self._step})"
        return NonFiniteError(
            f"optimisation step {step}{noticed}: {self._whose(losses_W2, step)}; nothing was saved since. Look at the "
            "data, lower optimizer.lr, set training.clip_norm, or leave such steps out: training.on_nonfinite=skip"
        )
