"""What validation reads at sites that a reentrant checkpoint hides."""

from __future__ import annotations

import pytest
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from kasmina.errors import KasminaError
from kasmina.growth.validation import Validator
from kasmina.sites import Garden, Recorder, Site, SiteError, morph
from tests.runtime.growth.gardens import data, host


class Checkpointed(nn.Module):
    """A host that saves memory in evaluation too."""

    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.inner, self.reentrant = host(), reentrant

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B, 8]` to `[B, 2]`."""
        given = x.clone().requires_grad_()
        output: Tensor = checkpoint(self.inner, given, use_reentrant=self.reentrant)
        return output


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_checkpoint_in_evaluation(reentrant: bool) -> None:
    """A reentrant one is told as what it is, not as a lack of data; the other one is read."""
    x, _ = data()
    model = morph(Checkpointed(reentrant), [Site("inner", seeds=1)])
    recorders = {path: Recorder(site) for path, site in Garden.of(model).sites.items()}
    validator = Validator(model, lambda: model(x).square().mean())
    if not reentrant:
        assert len(validator.record(recorders).passages["inner"]) == 1
        return
    with pytest.raises(
        SiteError, match=r"^sites inner: .*use_reentrant=True\), which tells no grad"
    ):
        validator.record(recorders)


def test_the_grown_model_may_be_a_part() -> None:
    """The first measurement finds its sites inside of a larger model, and misses what runs none."""
    x, _ = data()
    model = nn.Sequential(nn.Identity(), morph(host(), [Site("0", seeds=1), Site(".", seeds=1)]))
    assert Validator(model, lambda: model(x).square().mean()).first().loss > 0
    with pytest.raises(KasminaError, match=r"^validate\(\) ran no example .* Sites: 0, \.$"):
        Validator(model, lambda: x.square().mean()).first()


def test_losses_of_all_examples_are_parts() -> None:
    """Their mean is the loss, with its graph; other shapes are refused."""
    x, _ = data()
    model = morph(host(), [Site("0", seeds=1)])
    found = Validator(model, lambda: (model(x).square().mean(1), 0.5)).measure()
    assert found.parts is not None
    assert found.parts.shape == (len(x),)
    assert found.loss == pytest.approx(float(found.parts.mean()))
    assert found.metric == 0.5
    recorders = {path: Recorder(site) for path, site in Garden.of(model).sites.items()}
    recorded = Validator(model, lambda: model(x).square().mean(1)).record(recorders)
    assert recorded.loss == pytest.approx(found.loss)
    with pytest.raises(
        KasminaError, match=r"1-d tensor, or the mean loss .* got Tensor\(\d+, 2\)$"
    ):
        Validator(model, lambda: model(x)).measure()
