"""Detect preemption: a cloud provider or a draining cluster takes this machine away.

A node that receives SIGTERM announces this and waits 30 s, for example when Kubernetes ends a pod.
Ray Train's own check needs one more process for each start, polls only every 5 s, and ends the
training at the deadline.
"""

import logging

import torch
from torch import distributed

from pipeline.distributed import collective

logger = logging.getLogger(__name__)


class Departures:
    """The machines of a run's workers; all workers create it together."""

    def __init__(self, device: torch.device) -> None:
        self.machines: list[str] = []
        self._warned = False
        # A training in the process of a command or of a trial cannot continue elsewhere.
        if distributed.is_initialized():
            import ray

            machine = ray.get_runtime_context().get_node_id()
            own = torch.tensor([list(bytes.fromhex(machine))], dtype=torch.uint8)
            self.machines = [bytes(row.tolist()).hex() for row in collective.gather_on(device, own)]

    def notice(self) -> str:
        """Return which workers will lose their machine, or ""."""
        if not self.machines:
            return ""
        from ray._private.state import state

        try:
            going = state.get_draining_nodes()
        except Exception as error:  # the cluster may not answer for a moment: checked again
            if not self._warned:
                logger.warning("preemption of machines cannot be checked: %s", error)
            self._warned = True
            return ""
        ranks = [rank for rank, machine in enumerate(self.machines) if machine in going]
        workers = f"worker{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"
        return f"the machine of {workers} is preempted" if ranks else ""
