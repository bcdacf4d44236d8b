"""Ray is started without taking over the signals of the process that starts it."""

import signal
import subprocess

from pipeline.ray_cluster.connection import _own_signals


def test_ray_takes_over_no_signal_and_its_processes_survive_a_terminal_that_is_closed():
    def ours(number: int, frame: object) -> None:
        """Stand for a handler that saves a checkpoint."""

    before = signal.signal(signal.SIGTERM, ours)
    try:
        with _own_signals():
            signal.signal(signal.SIGTERM, signal.SIG_DFL)  # as Ray takes it over
            child = subprocess.run(
                ["sh", "-c", "kill -HUP $$; echo lives"], capture_output=True, text=True, check=True
            )

        assert child.stdout == "lives\n"
        assert signal.getsignal(signal.SIGTERM) is ours
        assert signal.SIGHUP not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
    finally:
        signal.signal(signal.SIGTERM, before)
