"""`foreshore.yaml`: one file, validated whole, an unknown key is an error that names its line.

Secrets never stand in it: a target and a tenant name the environment variable that holds their key.
"""

from __future__ import annotations

import difflib
import ipaddress
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args
from urllib.parse import urlsplit

from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from foreshore.errors import ConfigError
from foreshore.home import home
from foreshore.lined_yaml import Document, Loc, read_yaml
from foreshore.policy_config import (
    Budget,
    Constraint,
    Device,
    Learning,
    Name,
    Objective,
    PolicyName,
    Quality,
    Rule,
    Seconds,
)
from foreshore.runtime_config import EngineConfig, RuntimeConfig
from foreshore.runtime_config import Part as _Part
from foreshore.types import ServiceTier, Task

__all__ = [
    "Budget",
    "Config",
    "Constraint",
    "Objective",
    "PolicyName",
    "Rule",
    "TargetConfig",
    "find_config",
    "load_config",
    "parse_config",
]

MAX_FILE_BYTES = 256 * 1024
ENV = "FORESHORE_CONFIG"
DEFAULT_FILE = "foreshore.yaml"
STARTER = "starter-s:q4_k_m"

Kind = Literal["local", "openai", "anthropic"]
Detector = Literal["email", "card", "phone", "iban", "api_key"]
EnvName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,127}$")]
Dollars = Annotated[float, Field(ge=0, allow_inf_nan=False)]

TASKS: dict[str, tuple[Task, ...]] = {
    "local": ("chat", "completion", "embedding", "rerank", "tokenize", "detokenize"),
    "openai": ("chat", "completion", "embedding"),
    "anthropic": ("chat",),
}
BASE_URLS = {"openai": "https://api.openai.com/v1", "anthropic": "https://api.anthropic.com/v1"}


class Listen(_Part):
    host: str = "127.0.0.1"
    port: int = Field(default=8080, ge=0, le=65_535)

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the address."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


class Tenant(_Part):
    name: Name
    key_env: EnvName
    private: bool = False  # true: every request of this tenant stays local
    weight: float = Field(default=1.0, ge=0.01, le=100, allow_inf_nan=False)  # share of a busy machine, to others'
    service_tier: ServiceTier = "default"  # of requests that name none
    highest_tier: ServiceTier = "priority"  # that a request may name


class Price(_Part):
    """US dollars per million tokens."""

    input: Dollars = 0.0
    output: Dollars = 0.0


class TargetConfig(_Part):
    """One place that can answer. `base_url`, `key_env` and the timeouts belong to cloud kinds, `engine` and
    `keep_alive` to local ones."""

    kind: Kind
    model: str = Field(min_length=1)
    base_url: str | None = None
    key_env: EnvName | None = None
    timeout: Seconds = 60.0  # the longest silence between two events of a stream
    connect_timeout: Seconds = 5.0
    context_tokens: int | None = Field(default=None, gt=0)
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] | None = None
    tasks: tuple[Task, ...] = ()
    price: Price = Price()
    tags: tuple[Name, ...] = ()  # words for rules, as in `'eu' in target.tags`
    engine: EngineConfig | None = None
    keep_alive: Annotated[float, Field(ge=0, le=31_536_000)] | None = None  # seconds from its last request to unloading

    @field_validator("base_url")
    @classmethod
    def _http(cls, url: str | None) -> str | None:
        if url is None:
            return None
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("must be an http:// or https:// address")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError("must hold no user, password, query or fragment; name the key's variable in key_env")
        return url.rstrip("/")

    @model_validator(mode="after")
    def _of_kind(self) -> TargetConfig:
        if self.kind == "local":
            for name in ("base_url", "key_env", "max_tokens_field"):
                if getattr(self, name) is not None:
                    raise ValueError(f"{name} means nothing for kind 'local'")
            return self
        for name in ("engine", "keep_alive"):
            if getattr(self, name) is not None:
                raise ValueError(f"{name} is for kind 'local', not {self.kind!r}")
        if self.kind == "anthropic" and self.key_env is None:
            raise ValueError("kind 'anthropic' needs key_env")
        elif self.kind == "openai" and self.base_url is None and self.key_env is None:
            raise ValueError("kind 'openai' needs key_env, or the base_url of a server that takes no key")
        return self

    @property
    def local(self) -> bool:
        return self.kind == "local"

    @property
    def url(self) -> str:
        return self.base_url or BASE_URLS.get(self.kind, "")

    @property
    def serves(self) -> tuple[Task, ...]:
        return self.tasks or TASKS[self.kind]


class Privacy(_Part):
    """What makes a request private. A private request never reaches a cloud target; nothing turns that off."""

    detectors: tuple[Detector, ...] = get_args(Detector)
    header: Annotated[str, Field(pattern=r"^[a-z0-9-]{1,64}$")] = "x-foreshore-privacy"
    unscannable: Literal["private", "allow"] = "private"  # images, audio, files, token ids: detectors cannot read them
    scan_characters: int = Field(
        default=1_000_000, ge=1
    )  # longer content is not scanned: it is private, allowed or not


class Limits(_Part):
    timeout: Seconds = 300.0  # a request's deadline where it names none
    attempts: int = Field(default=3, ge=1, le=10)  # of one request, over all targets
    body_bytes: int = Field(default=8 * 1024 * 1024, ge=1024)


class LedgerConfig(_Part):
    path: Path | None = None  # None: $FORESHORE_HOME/ledger.sqlite
    queue: int = Field(default=10_000, ge=1)  # events waiting for the disk; more are dropped and counted
    keep_days: Annotated[float, Field(gt=0, le=36_500, allow_inf_nan=False)] = 90.0  # older events are removed

    @property
    def file(self) -> Path:
        return (self.path or home() / "ledger.sqlite").expanduser().absolute()


class Config(_Part):
    listen: Listen = Listen()
    tenants: tuple[Tenant, ...] = ()
    targets: dict[Name, TargetConfig] = Field(min_length=1)
    privacy: Privacy = Privacy()
    constraints: tuple[Constraint, ...] = ()
    rules: tuple[Rule, ...] = ()
    policy: tuple[PolicyName, ...] = ()  # shipped ones; their constraints and rules come after the file's own
    default: tuple[Name, ...] = ()  # (): all targets, in the file's order
    limits: Limits = Limits()
    ledger: LedgerConfig = LedgerConfig()
    runtime: RuntimeConfig = RuntimeConfig()
    budgets: tuple[Budget, ...] = ()
    quality: Quality = Quality()
    learning: Learning = Learning()
    device: Device = Device()

    @property
    def fallback_order(self) -> tuple[str, ...]:
        return self.default or tuple(self.targets)

    @model_validator(mode="after")
    def _names(self) -> Config:
        for kind in ("tenants", "constraints", "rules"):
            _unique([part.name for part in getattr(self, kind)], (kind,))
        _unique(self.policy, ("policy",))
        _unique([budget.tenant for budget in self.budgets], ("budgets",))
        self._check_order(self.default, ("default",))
        for i, rule in enumerate(self.rules):
            self._check_order(rule.prefer or (), ("rules", i, "prefer"))
        for i, constraint in enumerate(self.constraints):
            self._check_order(constraint.allow or (), ("constraints", i, "allow"))
            self._check_order(constraint.forbid or (), ("constraints", i, "forbid"))
        tenants = ("default", *(tenant.name for tenant in self.tenants))
        for i, budget in enumerate(self.budgets):
            if budget.tenant not in tenants:
                what = f"there is no tenant {budget.tenant!r}{_closest(budget.tenant, tenants)}"
                raise Misplaced(what, ("budgets", i, "tenant"))
        self._check_encoder()
        if "auto" in self.targets:
            raise Misplaced(
                "no target may be called 'auto': that model name leaves the choice to us", ("targets", "auto")
            )
        return self

    def _check_encoder(self) -> None:
        """It sees private requests too: it must be on this machine."""
        name, loc = self.quality.encoder, ("quality", "encoder")
        if name is None:
            return
        if name not in self.targets:
            raise Misplaced(f"there is no target {name!r}{_closest(name, self.targets)}", loc)
        if not self.targets[name].local:
            raise Misplaced(f"{name!r} is not on this machine, and the encoder reads private requests too", loc)
        if "embedding" not in self.targets[name].serves:
            raise Misplaced(f"{name!r} has tasks without 'embedding'", loc)

    def _check_order(self, names: Sequence[str], loc: Loc) -> None:
        _unique(names, loc)
        for i, name in enumerate(names):
            if name not in self.targets:
                raise Misplaced(f"there is no target {name!r}{_closest(name, self.targets)}", (*loc, i))

    @classmethod
    def starter(cls) -> Config:
        """Without a config: the shipped model on this machine, nothing else."""
        return cls(targets={"edge": TargetConfig(kind="local", model=STARTER)})


class Misplaced(ValueError):
    """A complaint of the whole file's check about the part at `loc`."""

    def __init__(self, message: str, loc: Loc) -> None:
        super().__init__(message)
        self.loc = loc


def _unique(names: Sequence[str], loc: Loc) -> None:
    for i, name in enumerate(names):
        if name in names[:i]:
            raise Misplaced(f"the name {name!r} stands here twice", (*loc, i))


def _closest(word: str, known: Any) -> str:
    match = difflib.get_close_matches(word, [str(k) for k in known], n=1)
    return f"; did you mean {match[0]!r}?" if match else f"; known are {', '.join(map(str, known)) or 'none'}"


def find_config(path: Path | None = None) -> Path | None:
    """`path`, else `$FORESHORE_CONFIG`, else `foreshore.yaml` here, else None. A named file must exist."""
    named = path or (Path(os.environ[ENV]) if os.environ.get(ENV) else None)
    if named is None:
        here = Path(DEFAULT_FILE)
        return here if here.is_file() else None
    if not named.is_file():
        raise ConfigError(f"there is no config file {str(named)!r}", hint="see docs/routing.md for an example")
    return named


def load_config(path: Path | None) -> Config:
    """The config at `path`; `None` gives `Config.starter()`."""
    if path is None:
        return Config.starter()
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"cannot read the config file {str(path)!r}: {error.strerror}") from error
    if len(raw) > MAX_FILE_BYTES:
        raise ConfigError(f"the config file {str(path)!r} is larger than {MAX_FILE_BYTES} bytes")
    try:
        return parse_config(raw.decode("utf-8"), where=str(path))
    except UnicodeDecodeError as error:
        raise ConfigError(f"the config file {str(path)!r} is not UTF-8 at byte {error.start}") from error


def parse_config(text: str, *, where: str = "foreshore.yaml") -> Config:
    """A `Config` from YAML. Every complaint names `where` and the line."""
    document = read_yaml(text, where)
    try:
        return Config.model_validate(document.data)
    except ValidationError as error:
        complaints = [_complaint(e, document, where) for e in error.errors(include_url=False)]
        raise ConfigError("\n".join(complaints), hint="docs/routing.md lists every key") from error


def _complaint(error: Any, document: Document, where: str) -> str:
    cause = error.get("ctx", {}).get("error")
    loc: Loc = cause.loc if isinstance(cause, Misplaced) else tuple(error["loc"])
    path = ".".join(map(str, loc)) or "the file"
    if error["type"] == "extra_forbidden" and (loc[0], loc[-1]) == ("rules", "targets"):
        what = f"{path!r} has a new name: write 'prefer'"
    elif error["type"] == "extra_forbidden":
        what = f"unknown key {path!r}{_closest(str(loc[-1]), _fields_at(loc[:-1]))}"
    elif error["type"] == "missing":
        what = f"the key {path!r} is missing"
    else:
        what = f"{path}: {error['msg'].removeprefix('Value error, ')}"
    return f"{where}:{document.line(loc)}: {what}"


def _fields_at(loc: Loc) -> Mapping[str, Any]:
    """The keys of the part at `loc`, found by walking the models' annotations."""
    model: type[BaseModel] = Config
    for part in loc:
        info = model.model_fields.get(str(part))
        model = model if info is None else _model_in(info.annotation) or model
    return model.model_fields


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for a in get_args(annotation) if (found := _model_in(a))), None)
