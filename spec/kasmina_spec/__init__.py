"""The specs that Kasmina ships, and their JSON Schemas; this package only hands out paths."""

from pathlib import Path

FOLDER = Path(__file__).resolve().parent

LIFECYCLE = FOLDER / "lifecycle.yaml"
LIFECYCLE_V1 = FOLDER / "lifecycle_v1.yaml"
STATE = FOLDER / "state.yaml"
STATE_V1 = FOLDER / "state_v1.yaml"
OBSERVATION = FOLDER / "observation.yaml"
KERNELS = FOLDER / "kernels.yaml"
MESSAGES = FOLDER / "messages.yaml"

LIFECYCLE_SCHEMA = FOLDER / "schema" / "lifecycle.schema.json"
STATE_SCHEMA = FOLDER / "schema" / "state.schema.json"
RECORDS_SCHEMA = FOLDER / "schema" / "records.schema.json"
KERNELS_SCHEMA = FOLDER / "schema" / "kernels.schema.json"
MESSAGES_SCHEMA = FOLDER / "schema" / "messages.schema.json"
