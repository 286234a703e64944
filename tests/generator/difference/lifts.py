"""A lift that has one of everything a spec can declare, and how to compare an edit of it."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from kasmina_generator import read_spec
from kasmina_generator.difference import Comparison, compare
from kasmina_generator.model import Spec
from tests.generator.specs import spoil

PANEL = """\
schema: kasmina/records@1
name: panel
version: 1
meaning: What is shown inside.
axes:
  floors: One entry a floor.
records:
  Button:
    meaning: One of them.
    fields:
      floor: {type: int, unit: floors, range: [0, 99], meaning: Where it leads.}
      lit: {type: bool, meaning: Somebody pressed it.}
  Panel:
    meaning: All of it.
    fields:
      buttons: {type: tuple, of: Button, meaning: From below.}
      waiting: {type: column, dtype: int32, axis: floors, unit: people, range: [0, .inf], meaning: At each.}
      load: {type: float, unit: kg, nan: Not weighed., none: No scales., meaning: In the cabin.}
"""
FANS = """\
schema: kasmina/kernels@1
name: fans
version: 4
meaning: What the fans of a lift compute.
states:
  mixing: {attribute: door, values: [closed, open], meaning: Air goes round.}
  joint: {attribute: door, values: open, meaning: Somebody feels it.}
placements:
  inline: {files: separate, modes: [replace, residual], out: bias, meaning: In the duct.}
dtypes: [float32, float16]
kinds:
  blade: {maps: {turn: bias, lean: no bias}, hidden: f(turn) * lean, options: {f: [relu, tanh]}, meaning: One.}
  vent: {elementwise: x * width, meaning: None turns.}
"""
RADIO = """\
schema: kasmina/messages@1
name: radio
version: 3
meaning: What lifts tell each other.
axes:
  floors: One entry a floor.
records:
  Where:
    meaning: A place.
    fields:
      floor: {type: int, unit: floors, range: [0, 99], meaning: Its number.}
envelope:
  meaning: Around all.
  fields:
    id: {type: str, length: [1, 64], meaning: Its name.}
groups:
  order:
    meaning: What is asked.
    fields:
      lift: {type: str, length: [1, 64], meaning: Of which one.}
  report:
    meaning: What was seen.
    fields:
      tick: {type: int, unit: ticks, meaning: When.}
messages:
  Go:
    group: order
    meaning: Move.
    fields:
      to: {type: record, of: Where, meaning: Where to.}
      gently: {type: bool, default: false, meaning: Somebody is ill.}
      how: {type: choice, values: [fast, slow], default: fast, meaning: At which speed.}
  Load:
    group: report
    meaning: What it carries.
    fields:
      weight: {type: float, unit: kg, range: [0, 2000], nan: Not weighed., none: No scales., meaning: Of all.}
      waiting: {type: column, dtype: int32, axis: floors, unit: people, meaning: At each.}
      notes: {type: tuple, of: str, length: [0, 9], meaning: By hand.}
upgrades:
  - {from: 1, meaning: The caller is told no more., messages: {Move: {drop: caller}}, ended: {Sing: Nobody listens.}}
  - from: 2
    meaning: Words changed.
    envelope: {rename: {name: id}}
    messages:
      Go: {was: Move, add: {gently: true}, rename: {target: to}}
"""
OLD_LIFT = """\
schema: kasmina/lifecycle@1
name: old_lift
version: 1
meaning: A lift of two floors.
initial: HALT
states:
  HALT: {code: 0, max_epochs: unbounded, meaning: It stands.}
  RIDE: {code: 1, max_epochs: 5, meaning: It moves.}
events:
  call: {kind: command, meaning: Somebody presses a button.}
  stop: {kind: automatic, meaning: It is there.}
transitions:
  - {from: HALT, on: call, to: RIDE}
  - {from: RIDE, on: stop, to: HALT, guard: timed_out}
"""
COLUMNS = """\
schema: kasmina/state@1
name: lift_state
meaning: What is kept of a lift.
columns:
  where: {dtype: int8, role: state, meaning: Its state.}
  ticks: {dtype: int16, role: epochs, meaning: For how long.}
  floor: {dtype: int16, default: 0, meaning: Where it is.}
  weights: {dtype: float32, length: 2, fields: [left, right], default: 0.0, meaning: On its ropes.}
  rides: {dtype: int32, role: generation, meaning: How often it was set up.}
  spare: {dtype: int32, default: 0, meaning: Kept free.}
"""
LIFT = """\
schema: kasmina/lifecycle@1
name: lift
version: 3
meaning: A lift of many floors.
state: lift_state.yaml
initial: IDLE
attributes:
  door: {meaning: the door of the cabin, values: {closed: shut, open: ajar, locked: for good}}
  light: {meaning: the lamp inside, values: {dim: saves power, bright: people see}}
states:
  IDLE: {code: 0, door: closed, light: dim, max_epochs: unbounded, meaning: Waits for a call.}
  OPEN: {code: 1, door: open, light: bright, max_epochs: 6, meaning: People step in.}
  MOVE: {code: 2, door: closed, light: bright, min_epochs: 1, max_epochs: 9, meaning: Between floors.}
  WAIT: {code: 3, door: closed, light: bright, max_epochs: unbounded, meaning: Somebody held the door.}
  DEAD: {code: 4, door: locked, light: dim, terminal: true, meaning: Out of order.}
groups:
  busy: [OPEN, MOVE]
  calm: [IDLE, WAIT]
events:
  alarm: {kind: command, urgent: true, priority: 0, meaning: Somebody pulled the alarm.}
  call: {kind: command, priority: 10, meaning: Somebody presses a button.}
  leave: {kind: automatic, priority: 20, meaning: The door may close.}
  halt: {kind: automatic, priority: 25, meaning: It has come too far.}
  rest: {kind: automatic, priority: 30, meaning: Nobody is there.}
context:
  load: {dtype: float32, unit: kg, range: [0, 2000], default: 0, nan: 2000, infinity: allowed, meaning: In the cabin.}
  speed: {dtype: float32, unit: m/s, range: [-4, 4], default: 0, nan: unknown, infinity: refuse, meaning: Up is positive.}
  people: {dtype: int32, unit: people, range: [0, 40], default: 0, meaning: In the cabin.}
  fire: {dtype: bool, default: false, meaning: Smoke was seen.}
limits:
  most_load: {dtype: float32, default: 900, range: [100, 1500], meaning: The ropes hold it.}
  most_lifts: {dtype: int32, default: 3, range: [1, 20], meaning: That may move at once.}
  most_open: {dtype: int32, default: 2, range: [1, 20], meaning: That may stand open at once.}
guards:
  light_enough: load <= most_load
effects:
  ring: {meaning: Ring the bell.}
  log: {meaning: Write it down.}
transitions:
  - {from: non_terminal, on: alarm, to: DEAD, effects: [ring, log]}
  - {from: IDLE, on: call, to: OPEN, guard: not fire}
  - {from: OPEN, on: leave, to: MOVE, guard: light_enough, effects: [log]}
  - {from: OPEN, on: rest, to: IDLE, guard: timed_out}
  - {from: MOVE, on: halt, to: WAIT, guard: speed > 3.5}
  - {from: MOVE, on: leave, to: OPEN, guard: speed < 0.5 or timed_out, meaning: It has arrived.}
  - {from: WAIT, on: leave, to: MOVE, guard: people >= 1}
  - {from: WAIT, on: rest, to: IDLE, guard: people < 1}
capacities:
  moving: {states: busy, limit: most_lifts, order: epochs, meaning: Power for so many.}
  standing: {states: [OPEN], limit: most_open, order: slot, meaning: Doors that one guard sees.}
recycle:
  - {from: DEAD, to: IDLE, after_epochs: 3, meaning: It was mended.}
properties:
  - {name: can be stopped, handles: {event: alarm, in: non_terminal}}
  - {name: can be used, reachable: MOVE}
  - {name: nobody holds it for ever, ctl: "AG(WAIT -> EF enabled(leave))"}
records: panel.yaml
kernels: fans.yaml
messages: radio.yaml
migrations:
  - from: {file: old_lift.yaml, digest: DIGEST}
    states: {HALT: IDLE, RIDE: MOVE}
    meaning: The lift has more floors now.
"""


def write(
    folder: Path,
    text: str = LIFT,
    columns: str = COLUMNS,
    panel: str = PANEL,
    fans: str = FANS,
    radio: str = RADIO,
    name: str = "lift.yaml",
) -> Path:
    """Write the lift and the files that it names into a new folder."""
    folder.mkdir(exist_ok=True)
    (folder / "old_lift.yaml").write_text(OLD_LIFT)
    (folder / "lift_state.yaml").write_text(columns)
    (folder / "panel.yaml").write_text(panel)
    (folder / "fans.yaml").write_text(fans)
    (folder / "radio.yaml").write_text(radio)
    digest = read_spec(folder / "old_lift.yaml").digest
    path = folder / name
    path.write_text(text.replace("DIGEST", digest))
    return path


def lift(
    folder: Path,
    text: str = LIFT,
    columns: str = COLUMNS,
    panel: str = PANEL,
    fans: str = FANS,
    radio: str = RADIO,
) -> Spec:
    """Read a lift."""
    return read_spec(write(folder, text, columns, panel, fans, radio))


Edit = tuple[str, str]


def edited(
    folder: Path,
    changes: Collection[Edit] = (),
    columns: Collection[Edit] = (),
    panel: Collection[Edit] = (),
    fans: Collection[Edit] = (),
    radio: Collection[Edit] = (),
    *,
    back: bool = False,
) -> Comparison:
    """Compare the lift with an edit of it: texts replaced in the spec and the files that it names."""
    texts = []
    every = (LIFT, COLUMNS, PANEL, FANS, RADIO)
    for text, edits in zip(every, (changes, columns, panel, fans, radio), strict=True):
        for old, new in edits:
            text = spoil(text, old, new)
        texts.append(text)
    specs = lift(folder / "old"), lift(folder / "new", *texts)
    return compare(*(reversed(specs) if back else specs))
