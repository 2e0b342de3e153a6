"""The shipped policies: `policies/*.yaml`, each a few constraints and rules that name no target."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from string import Template
from typing import get_args

from foreshore.config import Config
from foreshore.lined_yaml import read_yaml
from foreshore.policy_config import Constraint, PolicyName, Rule
from foreshore.runtime_config import Part

__all__ = ["NAMES", "ShippedPolicy", "shipped", "text_of"]

NAMES: tuple[PolicyName, ...] = get_args(PolicyName)


class ShippedPolicy(Part):
    """What such a file holds. The names of its constraints and rules begin with its own."""

    name: PolicyName
    about: str
    constraints: tuple[Constraint, ...] = ()
    rules: tuple[Rule, ...] = ()


def shipped(name: PolicyName, config: Config) -> ShippedPolicy:
    """The policy `name`, with what `config` sets in it."""
    return ShippedPolicy.model_validate({"name": name, **read_yaml(text_of(name, config), f"policy {name}").data})


def text_of(name: PolicyName, config: Config) -> str:
    """The file of `name`, ready to be copied into a config: `$floor` is `quality.floor`, `$header` `privacy.header`."""
    return Template(_template(name)).substitute(floor=config.quality.floor, header=config.privacy.header)


@cache
def _template(name: str) -> str:
    return (files("foreshore.router") / "policies" / f"{name}.yaml").read_text("utf-8")
