"""Write the two secrets of the stack into .env where it lacks them. Everything else in it stays as it is.

    python3 deploy/stack/write_env.py .env

Runs on the host, with Python's standard library only.
"""

from __future__ import annotations

import base64
import os
import re
import secrets
import sys
from pathlib import Path

SECRETS = {
    "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": lambda: base64.urlsafe_b64encode(os.urandom(32)).decode(),
    "REHEARSAL_WEBHOOK_SECRET": lambda: secrets.token_urlsafe(32),
}


def main(named: Path) -> None:
    """Add what is missing, at once or not at all, so that only the owner can read it."""
    file = named.resolve()  # a link stays a link
    text = file.read_bytes().decode(errors="surrogateescape") if file.exists() else ""
    missing = [name for name in SECRETS if not has(text, name)]
    if not missing:
        return
    added = "".join(f"{name}={SECRETS[name]()}\n" for name in missing)
    part = file.with_name(f"{file.name}.new")
    part.unlink(missing_ok=True)  # an interrupted start may have left it, with other permissions
    whole = text + ("\n" if text and not text.endswith("\n") else "") + added
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
        stream.write(whole.encode(errors="surrogateescape"))
        stream.flush()
        os.fsync(stream.fileno())
    part.replace(file)
    print(f"wrote into {named}: {', '.join(missing)}")


def has(text: str, name: str) -> bool:
    """Return whether the last line that sets a variable, which is the one that counts, gives it a value.

    Compose reads `NAME: value` as well, and a file that begins with a byte order mark.
    """
    values = re.findall(rf"(?m)^\ufeff?[ \t]*(?:export[ \t]+)?{name}[ \t]*[=:][ \t]*['\"]?([^\s'\"#]?)", text)
    return bool(values and values[-1])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
