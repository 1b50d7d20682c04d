"""The section `serving`: the throwaway server that a candidate is rehearsed in."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StrictInt, model_validator

from configs.addresses import host_and_port, server_address
from configs.sections.base import Section
from configs.serving_flags import PARAMETERS, check_flag, check_place, check_places, flag_value, most_rows


def _absolute(path: str) -> str:
    """Accept an absolute path, or nothing."""
    if path and not path.startswith("/"):
        raise ValueError("must be an absolute path, because TensorFlow Serving refuses a relative one")
    return path


class Attached(Section):
    """A TensorFlow Serving that is running already, for `serving.backend: attached`."""

    url: Annotated[str, AfterValidator(server_address)] = Field(
        "", description="REST address of the server, such as http://127.0.0.1:8501"
    )
    grpc: Annotated[str, AfterValidator(host_and_port)] = Field(
        "", description="gRPC address of the server, such as 127.0.0.1:8500; needed with protocol grpc or both"
    )
    directory: Path | None = Field(
        None,
        description="directory, shared with the server and used by rehearsals only, whose models.config the server "
        "watches",
    )
    seen_as: Annotated[str, AfterValidator(_absolute)] = Field(
        "",
        description="absolute path of that directory as the server sees it; empty means the same path",
    )
    lock_timeout_s: float = Field(600, ge=0, description="seconds to wait while another run uses the server")


class Serving(Section):
    """The throwaway server that the candidate is rehearsed in."""

    backend: Literal["auto", "docker", "embedded", "attached"] = Field(
        "auto",
        description="auto uses docker if an engine and the image are available, else embedded; attached uses a server "
        "that is running already",
    )
    image: str = Field(
        "tensorflow/serving:2.19.1",
        min_length=1,
        description="container image, by tag or digest; it is pulled if it is not available locally",
    )
    images: tuple[str, ...] = Field(
        (), description="several images, such as today's and the next; the candidate must pass on each. Replaces image"
    )
    platform: str = Field("", description="platform of the image, such as linux/amd64; empty uses the engine's default")
    protocol: Literal["rest", "grpc", "both"] = Field(
        "rest", description="how the test rows are sent; with both, the two must give the same answers"
    )
    startup_timeout_s: float = Field(60, gt=0, description="seconds until the started server must report AVAILABLE")
    request_timeout_s: float = Field(30, gt=0, description="time limit of one request, in seconds")
    memory_mb: int = Field(2048, ge=64, description="memory limit of the server in MiB")
    cpus: float = Field(0, ge=0, le=10_000, description="CPU limit of the container; 0 means no limit")
    pids_limit: int = Field(
        4096,
        ge=16,
        description="maximum number of processes and threads in the container; TensorFlow Serving starts hundreds, and "
        "more of them on a machine with more processors",
    )
    args: tuple[Annotated[str, AfterValidator(check_flag)], ...] = Field(
        (),
        description="flags that production's TensorFlow Serving is started with, such as --enable_batching; the "
        "container gets them as well. They need backend docker or auto, and auto then never uses the embedded server",
    )
    files: dict[Annotated[str, AfterValidator(check_place)], Path] = Field(
        {},
        description="files that these flags name: maps the absolute path in the container to a file, whose path is "
        "relative to the YAML file",
    )
    gpus: Literal["all"] | Annotated[StrictInt, Field(ge=0)] = Field(
        0, description="GPUs that the container gets: a number, or all"
    )
    attached: Attached = Attached()

    @model_validator(mode="after")
    def _gives_flags_to_a_container(self) -> Serving:
        if self.for_containers and self.backend not in ("auto", "docker"):
            raise ValueError(
                f"{self.for_containers} needs backend: docker or auto, because the {self.backend} server takes none"
            )
        check_places(self.files)
        parameters = flag_value(self.args, PARAMETERS)
        if parameters and parameters not in self.files:
            raise ValueError(
                f"args names --{PARAMETERS}={parameters}, so files must map '{parameters}' to a file on this machine"
            )
        return self

    @property
    def for_containers(self) -> str:
        """Return the first field that is set and only a container can have, or an empty string."""
        return next((name for name in ("args", "files", "gpus") if getattr(self, name)), "")

    @property
    def most_rows(self) -> int:
        """Return how many rows a request may have, which is limited if the server batches; 0 means no limit.

        Raises:
            ValueError: the file with the parameters of batching cannot be used.
        """
        return most_rows(self.args, self.files.get(flag_value(self.args, PARAMETERS) or ""))

    @model_validator(mode="after")
    def _says_what_it_is_attached_to(self) -> Serving:
        if self.backend != "attached":
            return self
        needed = ["url", "directory", *(["grpc"] if self.protocol != "rest" else [])]
        if missing := [f"attached.{name}" for name in needed if not getattr(self.attached, name)]:
            reason = f" and protocol: {self.protocol}" if "attached.grpc" in missing else ""
            needs = " and ".join(missing)
            raise ValueError(f"backend: attached{reason} needs {needs}; set it, or choose another backend")
        if self.images:
            raise ValueError(
                "images has no effect with backend: attached, which judges on the one server that is running; remove it"
            )
        return self

    @property
    def all_images(self) -> tuple[str, ...]:
        """Return the images that a candidate must pass on."""
        return self.images or (self.image,)
