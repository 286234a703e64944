"""Each rule: a small edit of a spec, and exactly the rules that it triggers."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from kasmina_generator import read_spec
from kasmina_generator.difference import CLASSES, RULES, compare
from kasmina_generator.difference.records import Change
from kasmina_generator.difference.rules import UNEXPLAINED
from tests.generator.difference.lifts import edited, lift, write
from tests.helpers import ROOT

# (the edit's old text, its new text, the rules); "moved" is told of what moves along, and only then.
SPEC_EDITS: list[tuple[str, str, set[str]]] = [
    ("name: lift\n", "name: hoist\n", {"name"}),
    ("version: 3", "version: 4", {"version"}),
    ("initial: IDLE", "initial: WAIT", {"initial"}),
    ("A lift of many floors.", "A lift.", {"meaning"}),
    ("It has arrived.", "There.", {"meaning"}),
    ("IDLE: {code: 0,", "IDLE:  {code: 0,", set()),
    ("initial: IDLE\n", "initial: IDLE # where else\n", set()),
    ("guards:\n", "\nguards:\n", {"moved"}),
    ("busy: [OPEN, MOVE]", "busy: [MOVE, OPEN]", {"members"}),
    ("effects: [ring, log]", "effects: [log, ring]", {"members"}),
    ("  busy: [OPEN, MOVE]\n  calm: [IDLE, WAIT]\n", "  calm: [IDLE, WAIT]\n  busy: [OPEN, MOVE]\n",
     {"order", "moved"}),
    # states
    ("DEAD: {code: 4,", "DEAD: {code: 5,", {"state_code"}),
    ("door: open, light: bright, max", "door: closed, light: bright, max", {"state_attribute"}),
    ("min_epochs: 1", "min_epochs: 0", {"state_min_epochs", "guard_weaker"}),
    ("max_epochs: 6", "max_epochs: 7", {"state_max_epochs", "guard_stronger"}),
    ("DEAD: {code: 4, door: locked, light: dim, terminal: true,",
     "DEAD: {code: 4, door: locked, light: dim, max_epochs: unbounded,",
     {"state_terminal", "edge_added", "edge_index"}),
    # groups
    ("  calm: [IDLE, WAIT]\n", "", {"group_removed", "moved"}),
    ("calm: [IDLE, WAIT]", "calm: [IDLE, DEAD]", {"group_states"}),
    # attributes
    ("dim: saves power, bright: people see", "bright: people see, dim: saves power",
     {"attribute_value_code"}),
    ("bright: people see}", "bright: people see, red: fire}", {"attribute_value_added"}),
    ("bright: people see}", "bright: they see}", {"meaning"}),
    # events
    ("alarm: {kind: command,", "alarm: {kind: automatic,", {"event_kind"}),
    ("urgent: true, ", "urgent: false, ", {"event_urgent", "guard_stronger"}),
    ("call: {kind: command, priority: 10", "call: {kind: command, priority: 11",
     {"event_priority", "edge_priority"}),
    ("  rest: {kind: automatic, priority: 30, meaning: Nobody is there.}\n",
     "  rest: {kind: automatic, priority: 30, meaning: Nobody is there.}\n  help: {kind: command, meaning: Call.}\n",
     {"event_added", "moved"}),
    # context
    ("load: {dtype: float32, unit: kg", "load: {dtype: float32, unit: lb", {"field_unit"}),
    ("range: [0, 2000]", "range: [0, 2500]", {"field_range"}),
    ("range: [0, 2000], default: 0", "range: [0, 2000], default: 1", {"field_default"}),
    ("nan: 2000", "nan: unknown", {"field_nan"}),
    ("infinity: allowed", "infinity: unknown", {"field_infinity"}),
    ("  fire: {", "  smoke: {dtype: bool, default: false, meaning: Old.}\n  fire: {",
     {"field_added", "moved"}),
    # limits
    ("default: 900", "default: 901", {"limit_default"}),
    ("range: [100, 1500]", "range: [100, 1501]", {"limit_range"}),
    ("guards:\n", "  hurry: {dtype: bool, default: false, meaning: Close fast.}\nguards:\n",
     {"limit_added", "moved"}),
    # effects
    ("transitions:\n", "  wave: {meaning: Wave.}\ntransitions:\n", {"effect_added", "moved"}),
    # edges
    ("on: rest, to: IDLE, guard: timed_out", "on: rest, to: WAIT, guard: timed_out", {"edge_target"}),
    ("guard: light_enough, effects: [log]", "guard: light_enough, effects: [ring]", {"edge_effects"}),
    ("capacities:\n", "  - {from: WAIT, on: call, to: OPEN}\ncapacities:\n",
     {"edge_added", "edge_index", "moved"}),
    ("to: WAIT, guard: speed > 3.5}", "to: WAIT, guard: speed > 3.5, priority: 26}",
     {"edge_priority"}),
    ("to: WAIT, guard: speed > 3.5}", "to: WAIT, guard: speed > 3.5, priority: 15}",
     {"edge_priority", "edge_index", "edge_order"}),
    ("guard: people < 1}", "guard: people < 1, priority: 5}",
     {"edge_priority", "edge_index", "edge_order_idle"}),
    ("guard: not fire", "guard: (not fire)", {"guard_text"}),
    ("guard: not fire", "guard: not fire and load > 1.0", {"guard_stronger"}),
    ("load <= most_load", "load <= most_load or fire", {"guard_weaker"}),
    ("load <= most_load", "load < most_load", {"guard_stronger"}),
    ("load <= most_load", "load >= most_load", {"guard_different"}),
    ("guard: people >= 1}", "guard: people > 0}", {"guard_equal"}),
    ("guard: people >= 1}", "guard: people * 2 >= 2}", {"guard_equal"}),
    # capacities
    ("moving: {states: busy", "moving: {states: calm", {"capacity_states"}),
    ("limit: most_open", "limit: most_lifts", {"capacity_limit"}),
    ("order: epochs", "order: people", {"capacity_order"}),
    ("  standing: {states: [OPEN], limit: most_open, order: slot, meaning: Doors that one guard sees.}\n", "",
     {"capacity_removed", "moved"}),
    # recycling
    ("after_epochs: 3", "after_epochs: 4", {"guard_stronger"}),
    ("recycle:\n  - {from: DEAD, to: IDLE, after_epochs: 3, meaning: It was mended.}\n", "",
     {"edge_removed", "moved"}),
    # properties
    ("  - {name: can be used, reachable: MOVE}\n", "", {"property_removed", "moved"}),
    ("reachable: MOVE", "reachable: WAIT", {"property_claim"}),
    ("can be used", "is useful", {"property_added", "property_removed"}),
    # migrations
    ("RIDE: MOVE", "RIDE: OPEN", {"migration_states"}),
    ("It was mended.", "Mended.", {"meaning"}),
    ("The lift has more floors now.", "More floors.", {"meaning"}),
]  # fmt: skip

COLUMN_EDITS: list[tuple[str, str, set[str]]] = [
    ("floor: {dtype: int16", "floor: {dtype: int32", {"column_dtype"}),
    ("default: 0, meaning: Where", "default: 1, meaning: Where", {"column_default"}),
    ("length: 2, fields: [left, right]", "length: 3", {"column_length", "column_fields"}),
    ("length: 2, fields: [left, right]", "length: 2", {"column_fields"}),
    ("fields: [left, right]", "fields: [right, left]", {"column_fields"}),
    ("rides: {dtype: int32, role: generation", "rides: {dtype: int32, default: 0", {"column_role"}),
    ("  spare: {dtype: int32, default: 0, meaning: Kept free.}\n", "", {"column_removed"}),
    ("  spare: {dtype", "  extra: {dtype", {"column_removed", "column_added"}),
    ("name: lift_state", "name: lift_columns", {"state_file_name"}),
    ("What is kept of a lift.", "What is kept.", {"meaning"}),
    ("Kept free.", "Free.", {"meaning"}),
]

PANEL_EDITS: list[tuple[str, str, set[str]]] = [
    ("version: 1", "version: 2", {"record_file_version"}),
    ("  floors: One entry a floor.\n", "  floors: One entry a floor.\n  doors: One a door.\n",
     {"axis_added", "moved"}),
    ("  Panel:\n", "  Lamp:\n    meaning: One.\n    fields:\n      lit: {type: bool, meaning: It shines.}\n  Panel:\n",
     {"record_added", "moved"}),
    ("      lit: {type: bool, meaning: Somebody pressed it.}\n", "",
     {"record_field_removed", "moved"}),
    ("      lit: {type", "      bent: {type: bool, meaning: It is broken.}\n      lit: {type",
     {"record_field_added", "moved"}),
    ("dtype: int32", "dtype: int64", {"record_field_type"}),
    ("unit: kg", "unit: lb", {"record_field_unit"}),
    ("[0, 99]", "[0, 98]", {"record_field_range"}),
    ("nan: Not weighed., ", "", {"record_field_missing", "meaning"}),
    ("nan: Not weighed., ", "nan: Unknown., ", {"meaning"}),
]  # fmt: skip

FAN_EDITS: list[tuple[str, str, set[str]]] = [
    ("version: 4", "version: 5", {"kernels_version"}),
    ("dtypes: [float32, float16]", "dtypes: [float32]", {"kernels_dtypes"}),
    ("values: open", "values: [open, closed]", {"kernel_states"}),
    ("[closed, open]", "[open, closed]", {"kernel_states"}),
    ("modes: [replace, residual]", "modes: [residual]", {"placement"}),
    ("files: separate", "files: together", {"placement"}),
    ("out: bias", "out: no bias", {"placement"}),
    ("dtypes:", "  parallel: {files: together, modes: [residual], out: no bias, meaning: Beside.}\ndtypes:",
     {"placement_added", "moved"}),
    ("  vent:", "  flap: {elementwise: x * size, meaning: It flaps.}\n  vent:", {"kind_added", "moved"}),
    ("  vent: {elementwise: x * width, meaning: None turns.}\n", "", {"kind_removed"}),
    ("turn: bias", "turn: no bias", {"kind_maps"}),
    ("[relu, tanh]", "[relu, gelu]", {"kind_options"}),
    ("f(turn) * lean", "f(lean) * turn", {"kind_formula"}),
    ("f(turn) * lean", "f(turn) * (lean)", {"kind_text"}),
    ("x * width", "x * width + width", {"kind_formula"}),
    ("None turns.", "It stands.", {"meaning"}),
    ("Air goes round.", "Air moves.", {"meaning"}),
]  # fmt: skip


RADIO_EDITS: list[tuple[str, str, set[str]]] = [
    ("name: radio", "name: horn", {"messages_version"}),
    ("  floors: One entry a floor.\n", "  floors: One entry a floor.\n  doors: One a door.\n",
     {"message_axes", "moved"}),
    ("One entry a floor.", "One a floor.", {"meaning"}),
    ("  Load:\n", "  Halt: {group: order, meaning: Stand.}\n  Load:\n", {"message_added", "moved"}),
    ("group: report\n    meaning: What it carries.", "group: order\n    meaning: What it carries.",
     {"message_group"}),
    ("      gently: {type", "      soon: {type: bool, meaning: Now.}\n      gently: {type",
     {"message_field_added", "moved"}),
    ("      notes: {type: tuple, of: str, length: [0, 9], meaning: By hand.}\n", "",
     {"message_field_removed", "moved"}),
    ("dtype: int32", "dtype: int64", {"message_field_type", "message_field_bounds"}),
    ("[fast, slow]", "[fast, slow, still]", {"message_field_type"}),
    ("unit: kg", "unit: lb", {"message_field_unit"}),
    ("[0, 9]", "[1, 9]", {"message_field_bounds"}),
    ("nan: Not weighed., ", "", {"message_field_missing", "meaning"}),
    ("default: fast", "default: slow", {"message_field_missing"}),
    ("gently: true", "gently: false", {"message_upgrades"}),
    ("rename: {target: to}", "rename: {goal: to}", {"message_upgrades"}),
    ("drop: caller", "drop: [caller, ear]", {"message_upgrades"}),
    ("Nobody listens.", "Nobody sings.", {"message_upgrades"}),
    ("Words changed.", "Words are others.", {"meaning"}),
]  # fmt: skip


def rules_of(changes: tuple[Change, ...]) -> set[str]:
    """The names of the rules that found something."""
    return {change.rule for change in changes}


def _id(edit: tuple[str, str, set[str]]) -> str:
    return f"{'-'.join(sorted(edit[2])) or 'nothing'} {edit[1].strip()[:24]}"


@pytest.mark.parametrize("edit", SPEC_EDITS, ids=_id)
def test_an_edit_triggers_exactly_these_rules(
    tmp_path: Path, edit: tuple[str, str, set[str]]
) -> None:
    """One text of the spec replaced."""
    found = edited(tmp_path, [edit[:2]])
    assert rules_of(found.changes) == edit[2]


@pytest.mark.parametrize("edit", COLUMN_EDITS, ids=_id)
def test_an_edit_of_the_columns_triggers_exactly_these_rules(
    tmp_path: Path, edit: tuple[str, str, set[str]]
) -> None:
    """One text of the state file replaced."""
    found = edited(tmp_path, [], [edit[:2]])
    assert rules_of(found.changes) == edit[2]


@pytest.mark.parametrize("edit", PANEL_EDITS, ids=_id)
def test_an_edit_of_the_records_triggers_exactly_these_rules(
    tmp_path: Path, edit: tuple[str, str, set[str]]
) -> None:
    """One text of the records file replaced."""
    assert rules_of(edited(tmp_path, panel=[edit[:2]]).changes) == edit[2]


@pytest.mark.parametrize("edit", FAN_EDITS, ids=_id)
def test_an_edit_of_the_kernels_triggers_exactly_these_rules(
    tmp_path: Path, edit: tuple[str, str, set[str]]
) -> None:
    """One text of the kernels file replaced."""
    assert rules_of(edited(tmp_path, fans=[edit[:2]]).changes) == edit[2]


@pytest.mark.parametrize("edit", RADIO_EDITS, ids=_id)
def test_an_edit_of_the_messages_triggers_exactly_these_rules(
    tmp_path: Path, edit: tuple[str, str, set[str]]
) -> None:
    """One text of the messages file replaced."""
    assert rules_of(edited(tmp_path, radio=[edit[:2]]).changes) == edit[2]


def test_a_messages_file_or_a_message_that_comes_or_goes_is_told_once(tmp_path: Path) -> None:
    """What is in it is not told besides."""
    edit = ("messages: radio.yaml\n", "")
    found = []
    for name, back in (("a", False), ("b", True)):
        (tmp_path / name).mkdir()
        found.append(rules_of(edited(tmp_path / name, [edit], back=back).changes))
    assert found == [{"messages_removed", "moved"}, {"messages_added", "moved"}]
    (tmp_path / "c").mkdir()
    (more,) = (edit for edit in RADIO_EDITS if "message_added" in edit[2])
    without = edited(tmp_path / "c", radio=[more[:2]], back=True)
    assert rules_of(without.changes) == {"message_removed", "moved"}


def test_a_kernels_file_that_comes_or_goes_is_told_once(tmp_path: Path) -> None:
    """What is in it is not told besides."""
    edit = ("kernels: fans.yaml\n", "")
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert rules_of(edited(tmp_path / "a", [edit]).changes) == {"kernels_removed", "moved"}
    back = edited(tmp_path / "b", [edit], back=True)
    assert rules_of(back.changes) == {"kernels_added", "moved"}


def test_a_placement_that_goes_is_told(tmp_path: Path) -> None:
    """The other way round from the one that comes."""
    (edit,) = (edit for edit in FAN_EDITS if "placement_added" in edit[2])
    found = edited(tmp_path, fans=[edit[:2]], back=True)
    assert rules_of(found.changes) == {"placement_removed", "moved"}


SEVERAL: dict[str, tuple[list[tuple[str, str]], set[str]]] = {
    "an attribute less": (
        [
            (", light: dim, max_epochs: unb", ", max_epochs: unb"),
            ("OPEN: {code: 1, door: open, light: bright,", "OPEN: {code: 1, door: open,"),
            ("MOVE: {code: 2, door: closed, light: bright,", "MOVE: {code: 2, door: closed,"),
            ("WAIT: {code: 3, door: closed, light: bright,", "WAIT: {code: 3, door: closed,"),
            ("light: dim, terminal", "terminal"),
            ("  light: {meaning: the lamp inside, values: {dim: saves power, bright: people see}}\n", ""),
        ],
        {"attribute_removed", "moved"},
    ),
    "a value less": (
        [("door: locked, ", "door: closed, "), (", locked: for good", "")],
        {"attribute_value_removed", "state_attribute"},
    ),
    "a state renamed": (
        [
            ("  WAIT: {code: 3", "  HELD: {code: 3"),
            ("calm: [IDLE, WAIT]", "calm: [IDLE, HELD]"),
            ("to: WAIT, guard: speed > 3.5", "to: HELD, guard: speed > 3.5"),
            ("{from: WAIT, on: leave", "{from: HELD, on: leave"),
            ("{from: WAIT, on: rest", "{from: HELD, on: rest"),
            ("AG(WAIT ->", "AG(HELD ->"),
        ],
        {"state_renamed"},
    ),
    "a code recycled": (
        [
            ("  WAIT: {code: 3, door: closed, light: bright, max_epochs: unb", "  STUCK: {code: 3, door: open, light: dim, max_epochs: unb"),
            ("calm: [IDLE, WAIT]", "calm: [IDLE, STUCK]"),
            ("to: WAIT, guard: speed > 3.5", "to: STUCK, guard: speed > 3.5"),
            ("{from: WAIT, on: leave", "{from: STUCK, on: leave"),
            ("{from: WAIT, on: rest", "{from: STUCK, on: rest"),
            ("AG(WAIT ->", "AG(STUCK ->"),
        ],
        {"code_recycled", "state_added", "state_removed", "group_states", "edge_added",
         "edge_removed", "property_claim", "edge_target"},
    ),
    "an event less": (
        [("  halt: {kind: automatic, priority: 25, meaning: It has come too far.}\n", ""),
         ("{from: MOVE, on: halt, to: WAIT, guard", "{from: MOVE, on: rest, to: WAIT, guard")],
        {"event_removed", "event_bit", "edge_added", "edge_removed", "moved"},
    ),
    "two events changed places": (
        [("  alarm: {kind: command, urgent: true, priority: 0, meaning: Somebody pulled the alarm.}\n", ""),
         ("  leave: {kind", "  alarm: {kind: command, urgent: true, priority: 0, meaning: Somebody pulled the alarm.}\n  leave: {kind")],
        {"event_bit", "moved"},
    ),
    "two effects changed places": (
        [("  ring: {meaning: Ring the bell.}\n", ""),
         ("  log: {meaning: Write it down.}\n", "  log: {meaning: Write it down.}\n  ring: {meaning: Ring the bell.}\n")],
        {"effect_bit", "moved"},
    ),
    "an effect less": (
        [("  log: {meaning: Write it down.}\n", ""), (", effects: [log]", ""), ("[ring, log]", "[ring]")],
        {"effect_removed", "edge_effects", "moved"},
    ),
    "a field of another type": (
        [("people: {dtype: int32, unit: people, range: [0, 40], default: 0,",
          "people: {dtype: float32, unit: people, range: [0, 40], default: 0, nan: 0, infinity: refuse,"),
         ("people >= 1}", "people >= 1.0}"), ("people < 1}", "people < 1.0}")],
        {"field_dtype", "field_range", "field_default", "field_nan", "field_infinity",
         "guard_unproved"},
    ),
    "a field less": (
        [("  fire: {dtype: bool, default: false, meaning: Smoke was seen.}\n", ""), (", guard: not fire", "")],
        {"field_removed", "guard_weaker", "moved"},
    ),
    "two fields changed places": (
        [("  people: {dtype: int32, unit: people, range: [0, 40], default: 0, meaning: In the cabin.}\n", ""),
         ("limits:\n", "  people: {dtype: int32, unit: people, range: [0, 40], default: 0, meaning: In the cabin.}\nlimits:\n")],
        {"position", "moved"},
    ),
    "a limit less": (
        [("  most_open: {dtype: int32, default: 2, range: [1, 20], meaning: That may stand open at once.}\n", ""),
         ("limit: most_open", "limit: most_lifts")],
        {"limit_removed", "capacity_limit", "moved"},
    ),
    "a limit of another type": (
        [("most_load: {dtype: float32, default: 900, range: [100, 1500]", "most_load: {dtype: int32, default: 900, range: [100, 1500]"),
         ("light_enough: load <= most_load", "light_enough: people <= most_load")],
        {"limit_dtype", "limit_default", "limit_range", "guard_unproved"},
    ),
    "a property more": (
        [("records: panel.yaml\n", "  - {name: can rest, reachable: IDLE}\nrecords: panel.yaml\n")],
        {"property_added", "moved"},
    ),
    "a capacity more": (
        [("recycle:\n", "  idle: {states: IDLE, limit: most_lifts, order: slot, meaning: Garages.}\nrecycle:\n")],
        {"capacity_added", "moved"},
    ),
    "capacities changed places": (
        [("  moving: {states: busy, limit: most_lifts, order: epochs, meaning: Power for so many.}\n", ""),
         ("recycle:\n", "  moving: {states: busy, limit: most_lifts, order: epochs, meaning: Power for so many.}\nrecycle:\n")],
        {"capacity_sequence", "moved"},
    ),
    "an attribute more": (
        [("  light: {meaning: the l", "  sound: {meaning: what is heard, values: {none: silence}}\n  light: {meaning: the l")]
        + [(f"code: {n}, door", f"code: {n}, sound: none, door") for n in range(5)],
        {"attribute_added", "moved"},
    ),
    "a group more": (
        [("events:\n", "  still: [IDLE]\nevents:\n")],
        {"group_added", "moved"},
    ),
    "a state more": (
        [("groups:\n", "  ROOF: {code: 9, door: open, light: dim, max_epochs: 3, meaning: On top.}\ngroups:\n"),
         ("{from: non_terminal, on: alarm", "{from: [IDLE, OPEN, MOVE, WAIT], on: alarm"),
         ("in: non_terminal", "in: busy")],
        {"state_added", "property_claim", "moved"},
    ),
    "no migration": (
        [("migrations:\n  - from: {file: old_lift.yaml, digest: DIGEST}\n    states: {HALT: IDLE, RIDE: MOVE}\n    meaning: The lift has more floors now.\n", "")],
        {"migration_removed"},
    ),
    "no records file": (
        [("records: panel.yaml\n", "")],
        {"record_file_removed", "moved"},
    ),
    "no state file": (
        [("state: lift_state.yaml\n", "")],
        {"state_file", "column_added", "column_removed", "migration_columns", "moved"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SEVERAL)
def test_several_edits_trigger_exactly_these_rules(tmp_path: Path, name: str) -> None:
    """Edits that only make sense together."""
    changes, rules = SEVERAL[name]
    assert rules_of(edited(tmp_path, changes).changes) == rules


BACKWARDS = {
    "migration_added": ("no migration", {"migration_added"}),
    "record_file_added": ("no records file", {"record_file_added", "moved"}),
    "attribute_value_removed": ("a value less", {"attribute_value_added", "state_attribute"}),
}


@pytest.mark.parametrize("rule", BACKWARDS)
def test_what_is_gone_one_way_is_new_the_other(tmp_path: Path, rule: str) -> None:
    """The same edit, undone."""
    name, rules = BACKWARDS[rule]
    assert rules_of(edited(tmp_path, SEVERAL[name][0], back=True).changes) == rules


@pytest.mark.parametrize("gone", ["axis", "record"])
def test_what_is_new_in_the_records_is_gone_the_other_way(tmp_path: Path, gone: str) -> None:
    """The same edit, undone."""
    (edit,) = (edit for edit in PANEL_EDITS if f"{gone}_added" in edit[2])
    found = edited(tmp_path, panel=[edit[:2]], back=True)
    assert rules_of(found.changes) == {f"{gone}_removed", "moved"}


def test_another_file_name(tmp_path: Path) -> None:
    """It moves nothing in the file."""
    one, other = write(tmp_path / "a"), write(tmp_path / "b", name="elevator.yaml")
    assert rules_of(compare(read_spec(one), read_spec(other)).changes) == {"file"}


def test_what_no_text_changes_alone(tmp_path: Path) -> None:
    """An edge that ceases to re-arm its slot, and an old spec by another name."""
    spec = lift(tmp_path / "lift")
    edges = tuple(replace(edge, recycle=False) for edge in spec.edges)
    assert rules_of(compare(spec, replace(spec, edges=edges)).changes) == {"edge_recycle"}
    migrations = tuple(replace(each, version=9) for each in spec.migrations)
    changed = compare(spec, replace(spec, migrations=migrations))
    assert rules_of(changed.changes) == {"migration_origin"}


def orders(folder: Path, *changes: tuple[str, str]) -> list[tuple[str, str]]:
    """What is told of the order of edges: rule and proof."""
    folder.mkdir()
    changed = edited(folder, changes).changes
    return [(c.rule, c.proof) for c in changed if c.rule.startswith("edge_order")]


def test_an_order_is_harmless_only_by_proof(tmp_path: Path) -> None:
    """With values that pass both, without any, and where a dtype that changed forbids to say."""
    first = ("guard: people < 1}", "guard: people < 1, priority: 5}")
    both = ("guard: people >= 1}", "guard: people >= 0}")
    assert orders(tmp_path / "a", first) == [
        ("edge_order_idle", "they never pass together, by proof")
    ]
    assert orders(tmp_path / "b", first, both) == [("edge_order", "with values that pass both")]
    other = [
        ("people: {dtype: int32, unit: people, range: [0, 40], default: 0,",
         "people: {dtype: float32, unit: people, range: [0, 40], default: 0, nan: 0, infinity: refuse,"),
        ("people >= 1}", "people >= 1.0}"),
        ("guard: people < 1}", "guard: people < 1.0, priority: 5}"),
    ]  # fmt: skip
    assert orders(tmp_path / "c", *other) == [("edge_order", "not proved that they never pass together")]  # fmt: skip


def test_every_rule_is_triggered_by_some_edit() -> None:
    """No rule without a test, no test of a rule that is gone, at least 25 rules in four classes."""
    tested = set[str]().union(
        *(edit[2] for edit in (*SPEC_EDITS, *COLUMN_EDITS, *PANEL_EDITS, *FAN_EDITS, *RADIO_EDITS))
    )
    tested = tested.union(*(rules for _, rules in (*SEVERAL.values(), *BACKWARDS.values())))
    tested |= {"axis_removed", "record_removed", "file", "edge_recycle", "migration_origin"}
    tested |= {"messages_added", "messages_removed", "message_removed"}
    tested |= {"kernels_added", "kernels_removed", "placement_removed"}
    names = [rule.name for rule in RULES]
    assert tested == set(names)
    assert len(names) == len(set(names)) >= 25
    assert {rule.kind for rule in RULES} == set(CLASSES)


def test_the_documentation_lists_every_rule() -> None:
    """With its class, in this order; the net below all others comes last."""
    text = (ROOT / "docs" / "specs.md").read_text()
    listed = re.findall(r"^\| `(\w+)` \| (\w+) \| (.*) \|$", text, re.MULTILINE)
    assert listed == [(rule.name, rule.kind, rule.says) for rule in (*RULES, UNEXPLAINED)]
