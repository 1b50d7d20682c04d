"""The models of a server, from its command line or from a ModelServerConfig file.

Source: TensorFlow Serving, config/model_server_config.proto, model_servers/server_core.cc.
"""

import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from stat import S_ISDIR
from typing import Any

from tasks.model_server.integers import int64
from tasks.model_server.status import Code, StatusError, invalid_argument
from tasks.model_server.tf_protos import proto


@dataclass(frozen=True)
class VersionPolicy:
    """Chooses the versions on disk that are served: the `latest` few, or the `specific` ones."""

    latest: int = 1
    specific: frozenset[int] | None = None

    def choose(self, versions: Collection[int]) -> set[int]:
        """Return the versions to serve."""
        if self.specific is not None:
            return set(versions) & self.specific
        return set(sorted(versions)[-self.latest :])


@dataclass(frozen=True)
class ModelConfig:
    """One model to serve.

    Attributes:
        name: the name in requests.
        base_path: the directory that holds the numbered version directories.
        policy: chooses among the versions on disk; the highest by default.
        labels: version numbers by label.
    """

    name: str
    base_path: Path
    policy: VersionPolicy = VersionPolicy()
    labels: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.base_path.is_absolute():
            raise invalid_argument(
                f"Expected model {self.name} to have an absolute path or URI; got base_path()={self.base_path}"
            )


def read_config_file(path: Path, *, is_first: bool = True) -> list[ModelConfig]:
    """Read a ModelServerConfig in protobuf text format.

    Args:
        is_first: whether nothing was configured before: only then it may name no list at all.

    Raises:
        StatusError: the file cannot be read, is not such a message, or names a model that this server does not support.
    """
    from google.protobuf import text_format  # type: ignore[import-untyped, unused-ignore]

    messages = proto("tensorflow_serving.config.model_server_config_pb2")
    try:
        text = path.read_bytes()
        if not text:  # TensorFlow maps the file into memory, and nothing cannot be mapped
            raise invalid_argument(f"{path}; Invalid argument")
        parsed = text_format.Parse(text.decode(), messages.ModelServerConfig())
    except OSError as error:
        raise StatusError(Code.NOT_FOUND, f"{path}; {error.strerror}") from error
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise invalid_argument(f"Invalid protobuf file: '{path}': {error}") from error
    if parsed.WhichOneof("config") == "custom_model_config":
        raise invalid_argument("ModelServer does not yet support custom model config.")
    if parsed.WhichOneof("config") is None and not is_first:
        raise StatusError(
            Code.FAILED_PRECONDITION,
            "Cannot transition to requested config."
            " It is only legal to transition from one ModelConfigList to another.",
        )
    models = [_model_config(config) for config in parsed.model_config_list.config]
    names = [model.name for model in models]
    for name in names:
        if names.count(name) > 1:
            raise invalid_argument(f"Illegal to list model {name} multiple times in config list")
    return models


def _model_config(config: Any) -> ModelConfig:
    is_tensorflow = config.model_platform == "tensorflow" or (not config.model_platform and config.model_type == 1)
    if not is_tensorflow:
        raise invalid_argument(f"Model {config.name} requests unsupported platform {config.model_platform or '(none)'}")
    choice = config.model_version_policy
    kind = choice.WhichOneof("policy_choice")
    if kind == "all":
        policy = VersionPolicy(latest=sys.maxsize)
    elif kind == "specific":
        policy = VersionPolicy(specific=frozenset(choice.specific.versions))
    else:
        policy = VersionPolicy(latest=choice.latest.num_versions or 1)
    return ModelConfig(config.name, Path(config.base_path), policy, dict(config.version_labels))


def version_dirs(base_path: Path) -> tuple[dict[int, Path], str]:
    """Return the versions below a base path, and what is wrong with them or an empty string.

    Every child counts whose name is a 64-bit integer, such as `00000123` for 123, even if it is a file; all others are
    ignored. If two children have the same version, the last by name is used: `1` and not `00001`.

    Raises:
        OSError: the directory does not exist or cannot be read.
    """
    found: dict[int, Path] = {}
    complaints = []
    for child in sorted(base_path.iterdir()):
        version = int64(child.name)
        if version is None:
            continue
        if version in found:
            complaints.append(
                f"Duplicate version directories detected. Version {version} will be loaded from {child.name},"
                f" {found[version].name} will be ignored."
            )
        found[version] = child
    return found, "; ".join(complaints)


def why_unmeasurable(version_dir: Path) -> str:
    """Return why the size of a version on disk cannot be determined, or an empty string.

    Reasons are a file instead of the directory, a broken link, or a directory that cannot be read. TensorFlow Serving
    reserves memory of that size before it loads a version, and a version without a size stays at START.

    Source: TensorFlow Serving, servables/tensorflow/util.cc, GetModelDiskSize; core/basic_manager.cc,
    ReserveResources.
    """
    seen: set[tuple[int, int]] = set()
    left = [version_dir]
    try:
        while left:
            for child in left.pop().iterdir():
                status = child.stat()
                place = status.st_dev, status.st_ino
                if S_ISDIR(status.st_mode) and place not in seen:  # a link may lead back
                    seen.add(place)
                    left.append(child)
    except OSError as error:
        return f"{error.filename}; {error.strerror}"
    return ""
