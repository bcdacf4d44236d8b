"""Commands that a person is told to run, written so that a shell takes them as they are meant."""

import shlex

MORE = "…"  # stands for what the person adds


def command(*words: object) -> str:
    """Join the words of a command; blanks, quotes and signs that a shell obeys are quoted.

    Args:
        words: Program, options and values; `MORE` stays as it is.
    """
    return " ".join(MORE if word == MORE else shlex.quote(str(word)) for word in words)


def job_command(name: str, *words: object) -> str:
    """Return the command of a job.

    Args:
        name: Of its file in `jobs/`, without the ending.
        words: As for `command`.
    """
    return command("python", f"jobs/{name}.py", *words)
