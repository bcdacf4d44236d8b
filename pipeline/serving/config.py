"""Options of a server of pictures."""

import ipaddress
from typing import Annotated, Self

from pydantic import Field, model_validator

from pipeline.common.settings import Settings
from ratgan.options import Device


class ServeConfig(Settings):
    """Serve pictures of trained models: a page for people, an API for programs.

    python jobs/serve.py --model outputs/quickstart
    """

    model: Annotated[tuple[str, ...], Field(min_length=1)] = ("outputs/quickstart",)
    """Runs, saved models or checkpoints, as folder or bucket address, or models of MLflow, as in
    models:/NAME@best; NAME=PLACE names one. Attention is shown where a run or checkpoint holds its
    discriminator."""
    encoder_path: str | None = None
    """Text encoder, for models that do not contain it."""
    tracking_uri: str | None = None
    """MLflow server or store of such models. Default: MLFLOW_TRACKING_URI, or that of outputs."""
    reload_s: Annotated[float, Field(gt=0)] = 30.0
    """Look so often whether the alias of a model names another version; it is then loaded, and
    takes over when it is ready."""
    host: str = "127.0.0.1"
    """Address to listen on. An address that other machines can reach needs --token-file."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """Port to listen on; 0 takes a free one."""
    allowed_host: tuple[str, ...] = ()
    """Names under which the server may be asked, besides its own address: my-machine:8000."""
    token_file: str | None = None
    """File of mode 600 with a token that each request must bring, as a bearer token."""
    device: Device = "auto"
    """auto: a GPU if there is one. Pictures are the same bits on the same kind of device."""
    max_images: Annotated[int, Field(ge=1, le=256)] = 16
    """Most images of one request."""
    max_queue: Annotated[int, Field(ge=1)] = 512
    """Most images that wait; more requests are refused with status 503."""
    timeout_s: Annotated[float, Field(gt=0)] = 60.0
    """Longest time of a request; then status 504."""
    replicas: Annotated[int, Field(ge=1, le=256)] | None = None
    """Draw in this many processes on Ray instead of in this one, fewer when little is asked; they
    share the GPUs. Ray is the cluster that RAY_ADDRESS names, or one of this command alone."""

    @model_validator(mode="after")
    def _check_access(self) -> Self:
        if self.max_images > self.max_queue:
            raise ValueError(
                f"max_images={self.max_images} is over max_queue={self.max_queue}: such a request "
                "would never be drawn."
            )
        if not self.on_loopback and self.token_file is None:
            raise ValueError(
                f"host={self.host} can be reached from other machines: it needs --token-file, a "
                "file of mode 600 with a token of 32 characters and more. Make one: (umask 077; "
                "python -c 'import secrets; print(secrets.token_hex(32))' > serve.token)"
            )
        return self

    @property
    def on_loopback(self) -> bool:
        """Whether only this machine can reach the address."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"
