"""A folded model as a file: loaded where there is no kasmina, and by other tools."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.export import Dim

from kasmina.sites import Garden, Site, SiteError, fold, morph
from kasmina.sites.writing import SOURCE, WEIGHTS, write
from tests.helpers import run_python
from tests.runtime.sites.models import HOSTS, Host, built, every_kind, put

every_host = pytest.mark.parametrize("host", HOSTS, ids=lambda host: host.name)
# Loads a written model with every import of ours refused, and runs it.
ELSEWHERE = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0].startswith("kasmina"):
            raise ImportError(name)
sys.meta_path.insert(0, Refuse())
sys.path.insert(0, {folder!r})
import torch
from safetensors.torch import load_file, save_file
import model
network = model.load()
inputs = load_file({inputs!r})
with torch.no_grad():
    found = network(**inputs)
found = found if isinstance(found, torch.Tensor) else found[0]
save_file({{"found": found.contiguous()}}, {outputs!r})
assert not [name for name in sys.modules if name.startswith("kasmina")]
network.train()
torch.autograd.backward(network(**inputs).square().sum())
print(sum(p.grad is not None for p in network.parameters()))
"""


def grown(host: Host) -> nn.Module:
    """A host with a kept seed of every kind at every site."""
    model = built(host).eval()
    every_kind(Garden.of(model), "FOSSILIZED", 0.8)
    return model


def elsewhere(folder: Path, **inputs: Tensor) -> tuple[Tensor, str]:
    """What a process without kasmina gets from the written model, and what it prints."""
    save_file(inputs, folder / "inputs")
    code = ELSEWHERE.format(
        folder=str(folder), inputs=str(folder / "inputs"), outputs=str(folder / "outputs")
    )
    done = run_python(code)
    assert done.returncode == 0, done.stderr
    return load_file(folder / "outputs")["found"], done.stdout.strip()


def close(found: Tensor, expected: Tensor) -> bool:
    """Equal to 1e-6 of the output's size."""
    found, expected = found.detach(), expected.detach()
    error = float((found - expected).abs().max())
    return error <= 1e-6 * float(expected.abs().max().clamp_min(1))


@every_host
def test_a_process_without_kasmina_computes_the_same(host: Host, tmp_path: Path) -> None:
    """Equal to 1e-6, for another size of batch, with names of weights and gradients for all."""
    model = grown(host)
    folded = fold(model, to=tmp_path, example=host.batch())
    other = torch.cat([host.batch(), host.batch().flip(0)])[:-1]
    found, trained = elsewhere(tmp_path, x=other)
    assert close(found, model(other))
    assert set(load_file(tmp_path / WEIGHTS)) == set(folded.state_dict())
    assert int(trained) == len(list(folded.parameters()))


@every_host
@pytest.mark.no_cover
def test_torch_exports_it(host: Host) -> None:
    """Through torch's own archive and back."""
    model = grown(host)
    folded = fold(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's exporter deprecates parts of itself
        program = torch.export.export(folded, (host.batch(),), dynamic_shapes=({0: Dim.AUTO},))
        held = io.BytesIO()
        torch.export.save(program, held)
        held.seek(0)
        again = torch.export.load(held).module()
    other = torch.cat([host.batch(), host.batch()])
    assert close(again(other), model(other))


@every_host
@pytest.mark.no_cover
def test_onnx_computes_the_same(host: Host, tmp_path: Path) -> None:
    """Written as ONNX and run by its own runtime, to 1e-5 of the output's size.

    The runtime has kernels of its own, which sum in another order.
    """
    import onnxruntime

    model, batch = grown(host), host.batch()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(fold(model), (batch,), tmp_path / "m.onnx", dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx")
    (found,) = session.run(None, {session.get_inputs()[0].name: batch.numpy()})
    expected = model(batch).detach().numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_the_file_imports_torch_alone(tmp_path: Path) -> None:
    """Beside the standard library; safetensors only where it is loaded."""
    fold(grown(HOSTS[0]), to=tmp_path, example=HOSTS[0].batch())
    lines = (tmp_path / SOURCE).read_text().splitlines()
    found = [line.strip() for line in lines if line.strip().startswith(("import ", "from "))]
    assert [line.split()[1] for line in found if line.split()[1] != "model"] == [
        *("math", "operator", "pathlib", "torch", "torch", "safetensors.torch")
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == [SOURCE, WEIGHTS]


@pytest.mark.no_cover
def test_the_same_model_gives_the_same_files(tmp_path: Path) -> None:
    """To the byte, over what was there."""
    for name in ("one", "two", "one"):
        fold(grown(HOSTS[2]), to=tmp_path / name, example=HOSTS[2].batch())
    for file in (SOURCE, WEIGHTS):
        one, two = ((tmp_path / name / file).read_bytes() for name in ("one", "two"))
        assert one == two


class Pair(nn.Module):
    """Two inputs, two outputs, a frozen weight, a tied one and a buffer that is not saved."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
        self.second.weight = self.first.weight
        self.first.bias.requires_grad_(False)
        self.register_buffer("shift", torch.ones(3), persistent=False)

    def forward(self, x: Tensor, beside: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Both maps of `[B, 3]` each."""
        found = self.first(x) + self.second(beside) + self.shift
        return found, {"beside": beside * 2}


@pytest.mark.parametrize("named", [False, True])
def test_several_inputs_and_outputs(named: bool, tmp_path: Path) -> None:
    """By place or by name; tied and frozen weights, and tensors that no state dict has."""
    model, x, beside = Pair(), torch.randn(1, 3), torch.randn(1, 3)
    morph(model, [Site("first", seeds=1)])
    put(Garden.of(model), 0, "FOSSILIZED")
    example = {"x": x, "beside": beside} if named else (x, beside)
    model.train()
    fold(model, to=tmp_path, example=example)
    assert model.training
    x, beside = torch.randn(5, 3), torch.randn(5, 3)
    save_file({"x": x, "beside": beside}, tmp_path / "inputs")
    code = ELSEWHERE.partition("network.train()")[0].format(
        folder=str(tmp_path), inputs=str(tmp_path / "inputs"), outputs=str(tmp_path / "outputs")
    )
    code += """
import json
again = network(**inputs)[1]["beside"]
frozen = [n for n, p in network.named_parameters() if not p.requires_grad]
print(json.dumps([again.tolist(), frozen]))
"""
    done = run_python(code)
    assert done.returncode == 0, done.stderr
    assert close(load_file(tmp_path / "outputs")["found"], model(x, beside)[0])
    again, frozen = json.loads(done.stdout)
    assert torch.allclose(torch.tensor(again), beside * 2)
    assert frozen == ["first.host.bias"]


class Named(nn.Module):
    """A host with any forward."""

    def __init__(self, forward: Callable[..., Any]) -> None:
        super().__init__()
        self.map = nn.Linear(3, 3)
        self.register_buffer("count", torch.zeros(()))
        self._forward = forward

    count: Tensor

    def forward(self, x: Tensor) -> Any:
        """What was given."""
        return self._forward(self, x)


class Two(NamedTuple):
    """A form of output that a file would have to import."""

    first: Tensor
    second: Tensor


def counting(self: Named, x: Tensor) -> Tensor:
    """Writes into a buffer."""
    self.count += 1
    found: Tensor = self.map(x)
    return found


def deciding(self: Named, x: Tensor) -> Tensor:
    """Looks at values."""
    found: Tensor = self.map(x) if x.sum() > 0 else x
    return found


@pytest.mark.parametrize(
    ("forward", "example", "why"),
    [
        (counting, torch.ones(2, 3), "its forward writes into count, in evaluation mode too"),
        (deciding, torch.ones(2, 3), "since torch.export cannot trace it: "),
        (lambda s, x: Two(s.map(x), x), torch.ones(2, 3), "its forward returns a Two"),
        (lambda s, x: (s.map(x), 3), torch.ones(2, 3), "its forward returns what is no tensor"),
        (lambda s, x: s.map(x), (3,), "the example holds a int. Wrap the model in one"),
    ],
    ids=["counting", "deciding", "named tuple", "number", "no tensor"],
)
def test_what_cannot_be_written_says_why(
    forward: Callable[..., Any], example: Any, why: str, tmp_path: Path
) -> None:
    """And leaves nothing behind."""
    with pytest.raises(SiteError) as error:
        write(Named(forward), tmp_path / "model", example)
    assert why in str(error.value)
    assert not (tmp_path / "model").exists()


def test_an_example_is_needed(tmp_path: Path) -> None:
    """To trace the model."""
    with pytest.raises(SiteError, match=r"^fold\(to=...\) traces the model; give it one batch as"):
        fold(grown(HOSTS[0]), to=tmp_path)
