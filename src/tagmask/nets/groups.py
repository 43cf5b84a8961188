"""Which parameters of a network learn together: trunk or head, weight or bias."""

from __future__ import annotations

from typing import Any

from torch import nn

NAMES = ("trunk.weight", "trunk.bias", "head.weight", "head.bias")


def parameter_groups(module: nn.Module) -> list[dict[str, Any]]:
    """Split the learnable parameters into the ``NAMES``; groups without a parameter are left out.

    The trunk is what lies under the attribute ``trunk`` (or under those that ``module.slow`` names), the head is the
    rest. Vectors (biases and the scales of normalisation) are "bias". Each group is a dict of ``name`` and ``params``,
    in the module's order.
    """
    groups: dict[str, list[nn.Parameter]] = {name: [] for name in NAMES}
    slow = getattr(module, "slow", ("trunk",))
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            part = "trunk" if name.partition(".")[0] in slow else "head"
            groups[f"{part}.{'bias' if parameter.ndim <= 1 else 'weight'}"].append(parameter)
    return [{"name": name, "params": params} for name, params in groups.items() if params]
