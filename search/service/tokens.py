"""Who may use a service: bearer tokens, of which only hashes are kept.

A file of lines `NAME ROLE SHA-256`, which the operator may edit; changes count at once. A token
is 32 random bytes, so that its hash needs no salt and no slow function.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import re
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pruning.errors import ServiceError
from search.durable import write_durably

Role = Literal["read", "launch"]
ROLES: tuple[Role, ...] = ("read", "launch")
"""What a token is good for: looking, or also launching, stopping and removing."""

_PREFIX = "espalier_"
_NAME = re.compile(r"[\w.@-]{1,60}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Caller:
    """Who makes a request; without tokens everyone is the same one."""

    name: str
    role: Role


EVERYONE = Caller("", "launch")


class Tokens:
    """Those in a file; ServiceError if it is missing or damaged when it is opened."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._read_at: tuple[int, ...] = ()
        self._callers: dict[str, Caller] = {}
        self._refresh()

    def __len__(self) -> int:
        self._refresh()
        return len(self._callers)

    def caller(self, token: str) -> Caller | None:
        """Whose token this is; None for a wrong one, and for all while the file is damaged."""
        try:
            self._refresh()
        except ServiceError as error:
            _log.warning("nobody is let in: %s", error)
            return None
        given = _hash(token)
        for stored, caller in self._callers.items():
            if hmac.compare_digest(stored, given):
                return caller
        return None

    def _refresh(self) -> None:
        try:
            found = self._file.stat()
            # the time alone may stay the same over two changes in a row
            changed = (found.st_mtime_ns, found.st_size, found.st_ino)
            if changed == self._read_at:
                return
            lines = _lines(self._file)
        except OSError as error:
            raise ServiceError(
                f"the file of tokens {self._file} cannot be read ({error.strerror}): make one with "
                f"`espalier token create NAME --tokens {self._file}`"
            ) from error
        self._callers, self._read_at = dict(map(self._entry, lines)), changed

    def _entry(self, line: str) -> tuple[str, Caller]:
        match line.split():
            case [name, "read" | "launch" as role, digest] if _DIGEST.fullmatch(digest):
                return digest, Caller(name, role)
        raise _damaged(self._file)


def create(file: Path, name: str, role: Role) -> str:
    """A new token for `name`, which is shown once; its hash is added to the file."""
    if not _NAME.fullmatch(name):
        raise ServiceError(f"a name has up to 60 letters, digits and . _ @ -, got {name!r}")
    token = _PREFIX + secrets.token_urlsafe(32)
    try:
        before = _lines(file) if file.exists() else []
        if any(line.split()[0] == name for line in before):
            raise ServiceError(f"{file} has a token of {name}: remove its line first")
        file.parent.mkdir(parents=True, exist_ok=True)
        lines = [*before, f"{name} {role} {_hash(token)}"]
        write_durably(file, "".join(f"{line}\n" for line in lines).encode())
        os.chmod(file, 0o600)
    except OSError as error:
        raise ServiceError(f"cannot write {file}: {error.strerror}") from error
    return token


def _lines(file: Path) -> list[str]:
    """Those that are not empty."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise _damaged(file) from None
    return [line for line in lines if line.strip()]


def _damaged(file: Path) -> ServiceError:
    return ServiceError(f"{file} is damaged: a line is NAME ROLE SHA-256")


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
