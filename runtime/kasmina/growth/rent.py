"""The rent of a seed: what its parameters must save, beyond nothing, for the gate to let them stay.

    rent = rate * parameters of the seed / parameters of the host                           [nats]

It is a price in the sense of Akaike 1974 (A new look at the statistical model identification) and
Rissanen 1978 (Modeling by shortest data description), by which a parameter must save 1 / n nats, or
ln(n) / 2n, of the mean loss of n training examples. Those prices are for models that the likelihood
alone has chosen on the training data: they make up for chance, which here the interval on held-out
data has taken off already. So the rate is a setting, and parameters are counted in shares of the
host's, as those who pay for them count.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kasmina.growth.planes import beds, rows_of
from kasmina.sites import Garden


def rents(garden: Garden, rate: float) -> Tensor:
    """What every seed must save, float32 `[N]`, nats; 0 for seeds without a blueprint.

    Args:
        garden: the seeds.
        rate: nats for as many parameters as the host has, 0 or more. In a host without parameters
            nothing pays: there is no share.
    """
    found, host = torch.zeros(len(garden.state)), garden.host_parameters() or math.inf
    for bed in beds(garden, rows_of(garden.state["blueprint_slot"] >= 0)):
        found[bed.rows.cpu()] = rate * bed.pool.kind.cost().parameters / host
    return found
