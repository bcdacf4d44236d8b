"""What is sent to a cluster with a job: the code, and no secret that lies beside it."""

import shutil
import zipfile
from pathlib import Path

import pytest
import ray._private.runtime_env.packaging as packaging

ROOT = Path(__file__).parents[3]
SECRETS = [
    *("compose.env", ".env", ".env.local", ".envrc", "server.pem", "SERVER.PEM", "tls.key"),
    *("id_rsa", "id_ed25519.pub", ".netrc", ".pgpass", ".pypirc", "my.token", "store.p12"),
    *(".aws/config", ".aws/credentials", ".ssh/known_hosts", ".kube/config", ".docker/config.json"),
    *("gcp-credentials.json", ".git-credentials", "Credentials.credentials", "secrets.yaml"),
    *("service-account.json", "kubeconfig", ".cache/huggingface/token", "terraform.tfstate"),
]
CODE = [
    "job.py",
    "identity.py",
    "keys.py",
    "environment.py",
    "token_file.py",
    "compose.env.example",
]


def sent(folder: Path, package: Path, *, include_gitignore: bool = True) -> set[str]:
    """Pack a working directory as `ray job submit` does, and list what is in the package."""
    packaging.create_package(str(folder), package, include_gitignore=include_gitignore)
    with zipfile.ZipFile(package) as archive:
        return {name for name in archive.namelist() if not name.endswith("/")}


@pytest.mark.parametrize("below", ["", "jobs/mine/"])
@pytest.mark.parametrize(
    "gitignore",
    [None, "!*.env\n!.aws/\n!**/*\n!id_rsa\n", "*.env\n!compose.env\n*.pem\n!server.pem\n"],
)
def test_no_secret_is_sent_whatever_gitignore_says(tmp_path, below, gitignore):
    folder = tmp_path / "project"
    for name in [*SECRETS, *CODE]:
        (folder / below / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / below / name).write_text("x")
    shutil.copy(ROOT / ".rayignore", folder)
    if gitignore is not None:
        (folder / ".gitignore").write_text(gitignore)
        (folder / below / ".gitignore").write_text(gitignore)

    found = sent(folder, tmp_path / "package.zip")
    without = sent(folder, tmp_path / "whole.zip", include_gitignore=False)  # a setting of Ray

    assert not (found | without) & {below + name for name in SECRETS}
    assert {below + name for name in CODE} <= without
    assert {below + name for name in CODE} <= found


def test_all_code_of_this_project_is_sent(tmp_path):
    found = sent(ROOT, tmp_path / "package.zip")

    code = {
        str(file.relative_to(ROOT))
        for folder in ("ratgan", "pipeline", "jobs")
        for file in (ROOT / folder).rglob("*.*")
        if "__pycache__" not in file.parts and file.is_file()
    }
    assert "jobs/presets/coco.yaml" in code
    assert code | {"pyproject.toml", "cluster/submit.sh"} <= found
    assert not [name for name in found if name.startswith(("tests/", "docs/", ".git/"))]


def test_an_image_leaves_out_the_same_secrets():
    ray, docker = (
        {
            line.removeprefix("**/").rstrip("/")
            for line in (ROOT / name).read_text().partition("# Secrets")[2].splitlines()[1:]
            if not line.startswith("#")
        }
        for name in (".rayignore", ".dockerignore")
    )

    assert len(ray) > 30
    assert ray == docker
