"""The transports by which rehearsals exchange rows. NCCL's lies with the code for GPUs."""

from __future__ import annotations

from drb.exchange import Transport
from drb.registry import Registry

AUTO = "auto"  # chosen when the ranks' nodes are known: see `drb.rehearsal.auto`
TRANSPORTS: Registry[Transport] = Registry(
    "exchange", Transport, ("drb.exchange", "drb.rehearsal.cuda"), "drb.exchanges", besides=(AUTO,)
)
