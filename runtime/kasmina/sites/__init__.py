"""Sites: where seeds live in a model, and how a model gets and loses them."""

from kasmina.sites.chunked import InlineSite
from kasmina.sites.chunks import ChunkManager
from kasmina.sites.errors import SiteError
from kasmina.sites.folding import fold
from kasmina.sites.garden import Garden
from kasmina.sites.layer import SiteLayer
from kasmina.sites.morphing import morph
from kasmina.sites.parallel import ParallelSite
from kasmina.sites.passage import Passage, Recorder
from kasmina.sites.place import Objective, Place
from kasmina.sites.site import Mode, Site
from kasmina.sites.telemetry import Telemetry
from kasmina.sites.wrappers import (
    ChunkedKasminaLayer,
    HybridConfig,
    HybridKasminaLayer,
    ParallelKasminaLayer,
)

__all__ = [
    "ChunkManager",
    "ChunkedKasminaLayer",
    "Garden",
    "HybridConfig",
    "HybridKasminaLayer",
    "InlineSite",
    "Mode",
    "Objective",
    "ParallelKasminaLayer",
    "ParallelSite",
    "Passage",
    "Place",
    "Recorder",
    "Site",
    "SiteError",
    "SiteLayer",
    "Telemetry",
    "fold",
    "morph",
]
