"""What a user can get wrong when placing seeds in a model."""

from __future__ import annotations

from kasmina.errors import KasminaError


class SiteError(KasminaError, ValueError):
    """A site that cannot be where it was asked to be; the message says why."""
