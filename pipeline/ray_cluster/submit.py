"""Submit a job to a Ray cluster, after checks of token, address and upload size.

    cluster/submit.sh -- python jobs/train_coco.py --output s3://my-bucket/runs …

Options of `ray job submit` go before the two dashes. The commit is sent for the job's record.
"""

import itertools
import json
import logging
import os
import sys
from pathlib import Path

import ray._private.runtime_env.packaging as packaging

from pipeline.common.environment import git_state
from pipeline.common.errors import show_error
from pipeline.common.redaction import redacted_output
from pipeline.ray_cluster.authentication import check_dashboard

LIMIT_MIB = 100  # Ray's dashboard accepts no more; the code is about one
MIB = 2**20
NAMED = 3  # largest files in the error message
QUIET = logging.getLogger(f"{__name__}.walk")  # `ray job submit` names the same files again
QUIET.disabled = True


def check_package(folder: Path) -> None:
    """Check that the upload of a folder is not too large.

    Args:
        folder: Uploaded, except what its `.rayignore` and `.gitignore` name.

    Raises:
        ValueError: If it is, with the largest files.
    """
    sizes: dict[Path, int] = {}

    def note(path: Path) -> None:
        if path.is_file():
            sizes[path] = path.stat().st_size

    packaging._dir_travel(folder, [], note, include_gitignore=True, logger=QUIET)
    total = sum(sizes.values())
    if total <= LIMIT_MIB * MIB:
        return
    largest = sorted(sizes, key=lambda path: -sizes[path])[:NAMED]
    named = "\n".join(
        f"{sizes[path] / MIB:,.0f} MiB  {path.relative_to(folder)}" for path in largest
    )
    raise ValueError(
        f"{folder} holds {total / MIB:,.0f} MiB to send, and Ray accepts at most {LIMIT_MIB} MiB:\n"
        f"{named}\nA job needs only the code. Add other files to .rayignore, for "
        f"example /{largest[0].relative_to(folder).parts[0]}"
    )


@redacted_output()
def main() -> None:
    """Make the checks, then replace this process with `ray job submit`."""
    given = sys.argv[1:]
    address = os.environ.get("RAY_API_SERVER_ADDRESS", "")
    for before, option in itertools.pairwise(given):
        address = option if before == "--address" else address
    try:
        if "--" not in given:
            raise ValueError("name the job after two dashes: cluster/submit.sh -- python jobs/….py")
        if not address:
            raise ValueError(
                "no cluster is given: export RAY_API_SERVER_ADDRESS, the address of its dashboard, "
                "for example http://127.0.0.1:8265."
            )
        check_package(Path.cwd())
        check_dashboard(address)
    except (ValueError, OSError) as error:
        show_error(error)
        sys.exit(2)
    commit = git_state().get("git.commit")
    # The dashboard shows these values, so they must not have secrets.
    variables = {"env_vars": {"GIT_COMMIT": commit}} if commit else {}
    ray = str(Path(sys.executable).parent / "ray")
    settings = ["--working-dir", ".", "--runtime-env-json", json.dumps(variables)]
    os.execv(ray, [ray, "job", "submit", *settings, *given])


if __name__ == "__main__":
    main()
