"""URLs of buses, without the passwords that they may hold."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

_SECRET = re.compile(r"((?:^|[?&])(?:ssl_)?password=)[^&]*")  # in a query


def hidden(url: str) -> str:
    """Return a URL, or what was meant to be one, as it may be shown."""
    head, at, tail = url.rpartition("@")
    scheme, colon, _ = head.partition("://")
    return _SECRET.sub(r"\1...", f"{scheme}{colon}...@{tail}" if at else url)


def without_password(url: str) -> tuple[str, bool]:
    """Return a URL that names a bus as it may be kept, and whether that takes a password away."""
    parts = urlsplit(url)
    who, _, host = parts.netloc.rpartition("@")
    user = who.partition(":")[0]
    kept = url.replace(f"//{parts.netloc}", f"//{user}@{host}" if user else f"//{host}", 1)
    query = "&".join(each for each in parts.query.split("&") if not _SECRET.match(each))
    kept = kept.replace(f"?{parts.query}", f"?{query}" if query else "", 1)
    return kept, ":" in who or query != parts.query
