"""What of a request bears on how long it takes."""

from __future__ import annotations

from typing import NamedTuple

from foreshore.router.facts import RequestFacts
from foreshore.types import Request

__all__ = ["Ask"]


class Ask(NamedTuple):
    """Requests of one `route` and tenant are alike: a rule's name, or, where none is known, the kind of request."""

    prompt_tokens: int = 0  # estimated
    max_tokens: int = 0
    route: str = ""
    tenant: str = ""

    @classmethod
    def of(cls, facts: RequestFacts, route: str = "") -> Ask:
        if not route:
            tools, json = "+tools" if facts.has_tools else "", "+json" if facts.wants_json else ""
            route = f"{facts.task}{tools}{json}{'+turns' if facts.messages > 2 else ''}"
        return cls(prompt_tokens=facts.prompt_tokens, max_tokens=facts.max_tokens, route=route, tenant=facts.tenant)

    @classmethod
    def about(cls, request: Request) -> Ask:
        """A rough one, for a target that is asked without facts."""
        texts = [m.get("content") for m in request.messages] or [request.prompt or request.query, *request.inputs]
        length = sum(len(text) if isinstance(text, (str, tuple)) else len(str(text)) for text in texts)
        return cls(
            prompt_tokens=length // 4,
            max_tokens=request.sampling.max_tokens or 0,
            route=request.task,
            tenant=request.tenant,
        )
