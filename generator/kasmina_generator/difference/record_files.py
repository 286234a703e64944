"""Rules on records files: what is logged, observed or sent."""

from __future__ import annotations

from kasmina_generator.difference.rule import Rule, added, changed, removed

_MAKERS = "whoever makes or reads the record must follow"
_VALUES = "a value that was accepted is refused, or the other way round"

RECORD_FILES = (
    Rule("record_file_added", "table", "a records file is new", "its module is generated",
         added("records file")),
    Rule("record_file_removed", "behaviour", "a records file is gone",
         "its module is removed, and what imports it fails", removed("records file")),
    Rule("record_file_version", "table", "a records file has another version or file name",
         "the generated module says so", changed("records file", "version", "file")),
    Rule("axis_added", "table", "an axis is new", "columns that name it are told on their own",
         added("axis", "records file")),
    Rule("axis_removed", "table", "an axis is gone", "columns that named it are told on their own",
         removed("axis", "records file")),
    Rule("record_added", "table", "a record is new", "its class is generated", added("record", "records file")),
    Rule("record_removed", "behaviour", "a record is gone", _MAKERS, removed("record", "records file")),
    Rule("record_field_added", "behaviour", "a record has a field more", _MAKERS,
         added("record field", "record")),
    Rule("record_field_removed", "behaviour", "a record has a field less", _MAKERS,
         removed("record field", "record")),
    Rule("record_field_type", "behaviour", "a field of a record is of another type",
         _VALUES, changed("record field", "type", "of", "axis")),
    Rule("record_field_unit", "behaviour", "a field of a record is in another unit",
         "the same number means another quantity", changed("record field", "unit")),
    Rule("record_field_range", "behaviour", "a field of a record has another range",
         _VALUES, changed("record field", "low", "high")),
    Rule("record_field_missing", "behaviour", "a field of a record takes NaN or None, or does not",
         _VALUES, changed("record field", "nan", "none")),
)  # fmt: skip
