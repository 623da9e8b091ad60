"""Prompts of a text generator: strings or chats, as token ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

Chat = Sequence[Mapping[str, str]]


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt and its token ids."""

    content: str | Chat
    ids: list[int]

    def reply(self, answer: str, full: bool) -> Any:
        """The "generated_text" of transformers' pipeline: the answer, after the prompt where `full` is true."""
        if not full:
            return answer
        if isinstance(self.content, str):
            return self.content + answer
        messages = [dict(message) for message in self.content]
        if _continued(self.content):
            messages[-1]["content"] += answer
        else:
            messages.append({"role": "assistant", "content": answer})
        return messages


def is_chat(prompt: Any) -> TypeGuard[Chat]:
    """Whether `prompt` is a list of messages."""
    if isinstance(prompt, str) or not isinstance(prompt, Sequence):
        return False
    return bool(prompt) and isinstance(prompt[0], Mapping)


def prompt_of(prompt: Any, tokenizer: Any, limit: int, bounded_by: str = "context") -> Prompt:
    """A string or a chat as a prompt of fewer than `limit` tokens, those of the model's context or of its cache.

    Its errors reach the clients of a service, so they name no folder of this machine.

    Raises:
        TypeError: neither a string nor a chat.
        ValueError: an empty prompt, one that is too long, or a chat where there is no chat template for it.
    """
    if isinstance(prompt, str):
        ids = list(tokenizer(prompt)["input_ids"]) if prompt else []
    elif is_chat(prompt):
        ids = _chat_ids(prompt, tokenizer)
    else:
        raise TypeError(f"a prompt must be a string or a list of {{role, content}} messages, got {prompt!r:.80}")
    if not ids:
        raise ValueError(f"a prompt must have at least one token, got {prompt!r}")
    if len(ids) >= limit:
        raise ValueError(
            f"a prompt must have at most {limit - 1} tokens, one less than the model's {bounded_by}, got {len(ids)}"
        )
    return Prompt(prompt, ids)


def _continued(chat: Chat) -> bool:
    """Whether the answer continues the last message."""
    return chat[-1]["role"] == "assistant"


def _chat_ids(chat: Chat, tokenizer: Any) -> list[int]:
    from jinja2 import TemplateError

    for message in chat:
        if not isinstance(message, Mapping) or not all(isinstance(message.get(k), str) for k in ("role", "content")):
            raise TypeError(f"a message must be {{role: ..., content: ...}} with two strings, got {message!r:.80}")
    if not getattr(tokenizer, "chat_template", None):
        raise ValueError("messages need a chat template, and the tokenizer of this model has none: give a string")
    ends = {"continue_final_message": True} if _continued(chat) else {"add_generation_prompt": True}
    messages = [dict(message) for message in chat]
    try:
        return list(tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True, **ends)["input_ids"])
    except (TemplateError, ValueError) as error:
        raise ValueError(f"the chat template of this model refuses these messages: {error}") from None
