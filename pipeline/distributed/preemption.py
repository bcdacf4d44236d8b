"""Detect preemption: a cloud provider or a draining cluster takes this machine away.

A node that gets SIGTERM announces it and waits 30 s, as when Kubernetes ends a pod. Ray Train's own
watch for it is one process more for each start, looks every 5 s only, and ends the training at
the deadline.
"""

import logging

import ray
import torch
from ray._private.state import state
from torch import distributed

from pipeline.distributed import collective

logger = logging.getLogger(__name__)


class Departures:
    """Knows the machines of a run's workers; made by all of them together.

    Args:
        device: To tell each other by.
    """

    def __init__(self, device: torch.device) -> None:
        self.machines: list[str] = []
        self._warned = False
        # Training in the process of a command, or of a trial, cannot go on elsewhere.
        if distributed.is_initialized():
            machine = ray.get_runtime_context().get_node_id()
            own = torch.tensor([list(bytes.fromhex(machine))], dtype=torch.uint8)
            self.machines = [bytes(row.tolist()).hex() for row in collective.gather_on(device, own)]

    def notice(self) -> str:
        """Say which workers are to lose their machine; empty while none is."""
        if not self.machines:
            return ""
        try:
            going = state.get_draining_nodes()
        except Exception as error:  # the cluster may be away for a moment: looked at again
            if not self._warned:
                logger.warning("it cannot be seen which machines are to be taken away: %s", error)
            self._warned = True
            return ""
        ranks = [rank for rank, machine in enumerate(self.machines) if machine in going]
        workers = f"worker{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"
        return f"the machine of {workers} is to be taken away" if ranks else ""
