"""Find the error a user can act on behind those that Ray wraps around it, and print it."""

from pydantic import ValidationError

from pipeline.common.screen import say
from pipeline.common.settings import explain
from pipeline.common.terminal import escaped

USER_ERRORS = (ValueError, OSError)  # what a user can mend; anything else is a fault of ours


def root_cause(error: BaseException) -> BaseException:
    """Find the error that started it, behind those that Ray wraps around it."""
    seen: set[int] = set()
    while id(error) not in seen:
        seen.add(id(error))
        failures = getattr(error, "worker_failures", None)
        inner = next(iter(failures.values())) if failures else getattr(error, "cause", None)
        inner = inner or getattr(error, "_base_exc", None) or error.__cause__
        if isinstance(error, USER_ERRORS) and not type(error).__module__.startswith("ray"):
            return error
        if not isinstance(inner, BaseException):
            return error
        error = inner
    return error


def show_error(error: BaseException) -> None:
    """Print an error for the person at the terminal."""
    text = escaped(explain(error) if isinstance(error, ValidationError) else str(error))
    ours = isinstance(error, ValueError) or (isinstance(error, OSError) and error.errno is None)
    name = "" if ours else f"{type(error).__name__}: "
    say("")  # what waits on standard output comes first
    say("\nerror: " + (name + text).replace("\n", "\n       ") + "\n", "stderr")
