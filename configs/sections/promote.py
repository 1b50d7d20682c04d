"""The section `promote`: how a candidate goes live."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from configs.addresses import (
    check_different,
    check_headers,
    header_name,
    header_value,
    path_of_metrics,
    production_address,
)
from configs.sections.base import Section

Layout = Literal["latest", "labels"]


def _mode(value: object) -> object:
    """Read the mode of a file: octal digits, as text or as YAML's own octal number."""
    digits = f"{value:04o}" if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(digits, str) or not re.fullmatch(r"0?[0-7]{3}", digits):
        raise ValueError("must be four octal digits that begin with 0, such as 0755")
    return digits.zfill(4)


Mode = Annotated[str, BeforeValidator(_mode)]


class LiveTls(Section):
    """The files for TLS connections to production; each is PEM, and its path is relative to the YAML file."""

    ca_file: Path | None = Field(
        None, description="certificates of the authorities to trust, instead of the public ones"
    )
    cert_file: Path | None = Field(
        None, description="the client's certificate, for a server that asks for one; key_file has its key"
    )
    key_file: Path | None = Field(None, description="the key of the client's certificate")

    @model_validator(mode="after")
    def _certificate_has_its_key(self) -> LiveTls:
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("cert_file and key_file must be set together: set both, or none")
        return self


Address = Annotated[str, AfterValidator(production_address)]
Headers = dict[Annotated[str, AfterValidator(header_name)], Annotated[str, AfterValidator(header_value)]]


class Promote(Section):
    """How a candidate goes live."""

    mode: Literal["auto", "review"] = Field(
        "auto", description="auto promotes a candidate that passes every gate; review waits for a person's approval"
    )
    layout: Layout = Field(
        "latest",
        description="latest: the highest version is live; labels: models.config names the stable version and "
        "the canary",
    )
    live_url: Address = Field(
        "",
        description="address of the production server, where a new version is verified, such as http://HOST:8501; "
        "grpc://HOST:8500 verifies over gRPC, and https:// and grpcs:// use TLS",
    )
    live_urls: tuple[Address, ...] = Field(
        (),
        description="addresses of several production servers, such as the replicas of one service: each must load a "
        "new version within live_timeout_s and answer it as the rehearsal did. Replaces live_url",
    )
    live_headers: Headers = Field(
        {},
        description="headers of each request to production (metadata over gRPC), such as {Authorization: Bearer "
        "${TOKEN}}, which takes the value from the environment",
    )
    live_tls: LiveTls = LiveTls()
    live_timeout_s: float = Field(60, gt=0, description="seconds within which production must load a new version")
    live_rows: int = Field(
        100, ge=1, description="number of test rows that production must answer as the rehearsal did"
    )
    approvers: tuple[str, ...] = Field(
        (),
        description="public keys of the reviewers, each a PEM file or its text; with one, an approval must be signed "
        "by one of them, and a tag in MLflow is not enough",
    )
    metrics_path: Annotated[str, AfterValidator(path_of_metrics)] = Field(
        "",
        description="path of the Prometheus metrics of production, such as /monitoring/prometheus/metrics: requests, "
        "errors and load time around a change are read at each REST address and recorded; empty reads nothing",
    )
    allow_no_way_back: bool = Field(
        False,
        description="way_back: allow a promotion although the version that a rollback would return to does not load, "
        "does not repeat its recorded answers, or has none; the history and MLflow record it",
    )
    keep: int = Field(
        0,
        ge=0,
        description="number of live versions, and of candidates with the files of their runs, to keep; 0 keeps all",
    )
    lock_timeout_s: float = Field(60, ge=0, description="seconds to wait while another process changes the same model")
    directory_mode: Mode = Field("0755", description="mode of the published directories, regardless of the umask")
    file_mode: Mode = Field("0644", description="mode of the published files, regardless of the umask")

    signing_key: Path | None = Field(
        None,
        description="file of the private key that signs the statement about each promotion and the head of the history "
        "(`keys new`); without it, the environment variable REHEARSAL_SIGNING_KEY holds the key or its path, and "
        "without both, they are unsigned",
    )
    trusted_keys: tuple[Path, ...] = Field(
        (), description="files of the public keys whose signatures doctor and rollback trust with require_proof"
    )
    require_proof: bool = Field(
        False, description="whether doctor and rollback refuse versions without a proof by one of trusted_keys"
    )

    @field_validator("signing_key", "trusted_keys", mode="before")
    @classmethod
    def _is_no_text_of_a_key(cls, value: object) -> object:
        if "-----BEGIN" in str(value):
            raise ValueError(
                "must be the path of a file, not the text of a key; the environment variable REHEARSAL_SIGNING_KEY "
                "may hold the text of the private key"
            )
        return value

    @model_validator(mode="after")
    def _proofs_can_be_checked(self) -> Promote:
        if self.require_proof and not self.trusted_keys:
            raise ValueError("require_proof needs trusted_keys, the public keys whose signatures are accepted")
        return self

    @model_validator(mode="after")
    def _owner_gets_in(self) -> Promote:
        if self.directory_mode[1] != "7" or self.file_mode[1] not in "4567":
            raise ValueError(
                "directory_mode must begin with 07, and file_mode with 04, 05, 06 or 07, so that the owner has access"
            )
        return self

    @model_validator(mode="after")
    def _labels_need_to_look(self) -> Promote:
        if self.layout == "labels" and not self.live_addresses:
            raise ValueError("layout: labels needs live_url, where a version must be AVAILABLE before a label moves")
        return self

    @model_validator(mode="after")
    def _tls_has_a_use(self) -> Promote:
        files = [name for name, file in self.live_tls if file is not None]
        if files and not any(address.startswith(("https:", "grpcs:")) for address in self.live_addresses):
            raise ValueError(f"live_tls.{files[0]} needs a live_url of https:// or grpcs://")
        return self

    @model_validator(mode="after")
    def _requests_are_clear(self) -> Promote:
        if "" in self.live_urls:
            raise ValueError("live_urls must not contain an empty address")
        check_different(self.live_urls)
        check_headers(self.live_headers, self.live_addresses)
        return self

    @model_validator(mode="after")
    def _metrics_are_read_over_http(self) -> Promote:
        if self.metrics_path and not any(address.startswith("http") for address in self.live_addresses):
            raise ValueError("metrics_path needs a live_url of http:// or https://, where the metrics are read")
        return self

    @property
    def live_addresses(self) -> tuple[str, ...]:
        """Return the addresses at which a new version is verified; none means that it is not verified."""
        return self.live_urls or ((self.live_url,) if self.live_url else ())
