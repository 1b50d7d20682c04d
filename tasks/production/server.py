"""The production server: the command that starts it, and whether it answers."""

from __future__ import annotations

import logging
import shlex
from pathlib import Path
from urllib.parse import urlsplit

from configs.schema import Config
from tasks.errors import AccessDenied
from tasks.objects.store import look_at_store
from tasks.production.live_check import Endpoint, is_there
from tasks.program import command_here, short_path
from tasks.records import ServerFacts
from tasks.serving.client import Access
from tasks.serving.pinned import ONE_TRY, WATCHES_LABELS  # else a broken version delays all others for five minutes
from tasks.store.layout import check_writable
from tasks.store.serving_config import MODELS_CONFIG, ensure_config

log = logging.getLogger(__name__)

SYNCED = "served"  # where the commands that are shown let `sync` put what is live in an object store


def start_command(config: Config, judge: ServerFacts) -> str:
    """Return the command that starts a production server here, of the same kind as the judging server."""
    place, beside = _served_root(config) / config.name, ""
    if config.object_store:
        beside = f"{command_here('flows.sync')} --from {config.object_store} --to {SYNCED} & "
    if judge.backend == "docker":
        mount = f"{shlex.quote(str(place))}:/models/{config.name}:ro"
        files = "".join(
            f" -v {shlex.quote(f'{file}:{inside}:ro')}" for inside, file in sorted(config.serving.files.items())
        )
        flags = " ".join([ONE_TRY, *map(shlex.quote, config.serving.args)])
        return (
            f"{beside}docker run --rm -p 8501:8501 -e MODEL_NAME={config.name} -v {mount}{files} {judge.image} {flags}"
        )
    flags = production_flags(config, _absolute(place))
    return f"{beside}{command_here('tasks.model_server')} --port=8500 {flags}"


def _absolute(path: Path) -> str:
    """Return an absolute path, which a model server needs, shortened with $PWD if it is below this directory."""
    short = short_path(path)
    return short if short.startswith(("/", "'")) else f"$PWD/{short}"


def production_flags(config: Config, model_dir: str = "") -> str:
    """Return the flags that start a production server, TensorFlow Serving or the embedded one.

    Args:
        model_dir: `config.live_dir`, quoted for a shell; empty means its absolute path.
    """
    urls = [urlsplit(address) for address in config.promote.live_addresses]
    port = next((url.port for url in urls if url.scheme == "http" and url.port), 8501)
    if config.promote.layout == "labels":
        path = shlex.quote(str(_served_root(config) / MODELS_CONFIG))
        return f"--rest_api_port={port} {ONE_TRY} --model_config_file={path} {' '.join(WATCHES_LABELS)}"
    path = model_dir or shlex.quote(str(_served_root(config) / config.name))
    return f"--rest_api_port={port} {ONE_TRY} --model_name={config.name} --model_base_path={path}"


def _served_root(config: Config) -> Path:
    """Return the directory that servers read: models_root, or where the next one would be that `sync` fills."""
    return Path.cwd() / SYNCED if config.object_store else config.live_root


def look_at_production(config: Config) -> None:
    """Log a warning if production must verify a version but does not answer; change nothing.

    Raises:
        StoreError: models_root is not in a writable directory. AccessDenied: production does not accept this client.
    """
    check_writable(config.live_root, "work_dir" if config.object_store else "models_root")
    look_at_store(config)
    if absent := silent(config):
        log.warning(
            "no server answers at %s. This is expected before the first version; otherwise, start a "
            "server (%s). A version that is not served within %g s (promote.live_timeout_s) is rolled back",
            absent,
            production_flags(config),
            config.promote.live_timeout_s,
        )


def silent(config: Config) -> str:
    """Return the addresses of production at which no server answers, or an empty string.

    Raises:
        AccessDenied: a server does not accept this client, so that no version could be verified.
    """
    promote = config.promote
    field = "promote.live_urls" if promote.live_urls else "promote.live_url"
    try:
        absent = [found.address for found in endpoints(config) if not is_there(found)]
    except AccessDenied as exc:
        raise AccessDenied(f"{exc}; check {field}, promote.live_headers and promote.live_tls") from exc
    return f"{field} {', '.join(absent)}" if absent else ""


def endpoints(config: Config) -> list[Endpoint]:
    """Return the production servers at which a new version is verified."""
    promote, tls = config.promote, config.promote.live_tls
    access = Access(
        config.serving.most_rows, promote.live_headers, ca_file=tls.ca_file, cert_file=tls.cert_file,
        key_file=tls.key_file,
    )  # fmt: skip
    return [Endpoint(address, config.name, access) for address in promote.live_addresses]


def make_startable(config: Config) -> None:
    """Create the file that `production_flags` names, if it does not exist.

    Raises:
        StoreError: the file cannot be written.
    """
    if config.promote.layout == "labels":
        ensure_config(config.live_root)
