"""Every path that answers with a model, and the kind of body it takes."""

from __future__ import annotations

from typing import Any

from foreshore.router.api.messages import CountBody, MessagesBody
from foreshore.router.api.openai import ChatBody, CompletionBody, EmbeddingBody
from foreshore.router.api.rerank import RerankBody
from foreshore.router.api.responses import ResponsesBody
from foreshore.router.api.tokens import DetokenizeBody, TokenizeBody

__all__ = ["ANTHROPIC", "DOORS"]

DOORS: dict[str, type[Any]] = {
    "/v1/chat/completions": ChatBody,
    "/v1/completions": CompletionBody,
    "/v1/responses": ResponsesBody,
    "/v1/messages": MessagesBody,
    "/v1/messages/count_tokens": CountBody,
    "/v1/embeddings": EmbeddingBody,
    "/v1/rerank": RerankBody,
    "/rerank": RerankBody,
    "/tokenize": TokenizeBody,
    "/detokenize": DetokenizeBody,
}
ANTHROPIC = "/v1/messages"  # below it, errors have Anthropic's shape
