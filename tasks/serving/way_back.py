"""Asks the version that a rollback would return to what it was asked when it was judged.

That is done beside the candidate if it is the champion; alone if it is another version, or to find out which of two
versions is at fault.
"""

from __future__ import annotations

from dataclasses import replace

from tasks.datasets.rows import load_arrays
from tasks.errors import DataError, ModelLoadError, ServingError
from tasks.records import Champion, WayBack
from tasks.serving.client import ModelClient
from tasks.serving.exits import server_words
from tasks.serving.launch import throwaway_server
from tasks.serving.rehearsal import OWN, Rehearsal, open_clients


def is_way_back(way: WayBack | None, champion: Champion | None) -> bool:
    """Return whether the champion is the version that a rollback would return to."""
    return way is not None and champion is not None and way.version == champion.version


def blamed(rehearsal: Rehearsal, champion: Champion, error: ServingError) -> WayBack:
    """Return that the way back is refused, if that version alone is refused as well.

    Raises:
        ServingError: it is not the way back, or nothing is wrong with it alone.
    """
    way = rehearsal.way_back
    if way is not None and way.version_dir is not None and is_way_back(way, champion):
        found = alone(rehearsal, way)
        if found.refusal:
            return found
    raise ServingError(
        f"'{rehearsal.candidate.name}' version {rehearsal.candidate.version} was served alone, but not in one "
        f"server with version {champion.version}, which is live: {error}",
        detail=error.detail,
    ) from error


def alone(rehearsal: Rehearsal, way: WayBack) -> WayBack:
    """Serve the way back alone; return its answers, or the words of the server that refused it."""
    assert way.version_dir is not None
    served_as = replace(rehearsal.candidate, version=int(way.version_dir.name), version_dir=way.version_dir)
    log_file = rehearsal.directory / "server_way_back.log"
    try:
        with (
            throwaway_server(rehearsal.backend, rehearsal.serving, served_as, log_file) as (server, rest),
            open_clients(rehearsal.serving, server, rest) as (client, *_),
        ):
            return repeated(rehearsal, way, client)
    except OWN as exc:
        return replace(way, refusal=refusal_words(exc), log=exc.detail)


def refusal_words(error: ServingError) -> str:
    """Return why a server refused a version that was in production, without the advice for a candidate."""
    words = server_words(error.detail) if isinstance(error, ModelLoadError) else ""
    return words or str(error)


def repeated(rehearsal: Rehearsal, way: WayBack, client: ModelClient) -> WayBack:
    """Return the way back with its answers to the requests that it was judged on."""
    recorded = way.recorded
    if recorded is None or way.version_dir is None:
        return way
    beyond = recorded.signature.beyond_rest if rehearsal.serving.protocol == "rest" else ()
    if beyond:
        why = f"serving.protocol is rest, which cannot carry {', '.join(map(str, beyond))}"
        return replace(way, recorded=None, unproven=why)
    try:
        rows = load_arrays(recorded.requests)
    except DataError as exc:
        return replace(way, recorded=None, unproven=str(exc))
    number, outputs, name = int(way.version_dir.name), recorded.signature.outputs, recorded.signature.name
    return replace(way, answers=rehearsal.save("way_back", client.predict(number, rows, outputs, name)))
