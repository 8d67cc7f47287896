"""Between text and tokens: a prompt's tokens, those that end a text, and text as tokens come."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..errors import UserError

# What tokenizers call the tokens that end a text, or a turn of it.
ENDS = (
    "</s>", "<eos>", "[EOS]", "<|endoftext|>", "<|end_of_text|>", "<|eot_id|>", "<|eom_id|>",
    "<|im_end|>", "<|end|>", "<|return|>", "<end_of_turn>", "<end_of_utterance>",
    "<|END_OF_TURN_TOKEN|>", "<\uff5cend\u2581of\u2581sentence\uff5c>",
)  # fmt: skip

# What a tokenizer gives for bytes that are no character, or none yet.
_UNFINISHED = "\ufffd"


def tokens_of(tokenizer: Any, prompt: str, where: str) -> list[int]:
    """Return the tokens of a prompt; `where` names the tokenizer in errors.

    Raises
    ------
    UserError
        The prompt is not UTF-8, or the tokenizer has no tokens for it.
    """
    try:
        prompt.encode()
    except UnicodeEncodeError as error:  # bytes of a command line are kept as halves of characters
        raise UserError("the prompt is not UTF-8", hint="save or type it as UTF-8") from error
    try:
        return list(tokenizer.encode(prompt).ids)
    except Exception as error:  # the package has no class of its own
        raise UserError(
            f"the tokenizer cannot encode the prompt ({str(error)[:200]})", where=where
        ) from error


def ending_tokens(tokenizer: Any, stops: Sequence[str]) -> set[int]:
    """Return the tokens that end a text: those of `ENDS`, and special ones that `stops` names.

    A special token is not in the text that is shown, so no stop string can be found there.
    """
    added = tokenizer.get_added_tokens_decoder().items()
    special = {number for number, token in added if token.special and token.content in stops}
    known = {tokenizer.token_to_id(end) for end in ENDS}
    return special | {end for end in known if end is not None}


class TokenText:
    """Turns tokens into pieces of text, one after the other.

    A token may end inside of a character, which is shown when the rest of it is there.  What a
    token says can hang on the ones before it (some tokenizers take the first space away), so text
    is always made of some of these too, at first of the prompt.  ``DecodeStream`` of `tokenizers`
    does not give back what it holds when nothing more comes.
    """

    def __init__(self, tokenizer: Any, prompt: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self._begin(list(prompt))

    def add(self, token: int) -> str:
        """Return the characters that end with `token`."""
        self._tokens.append(token)
        new = self._new()
        whole = new.rstrip(_UNFINISHED)
        self._shown += whole
        if whole and whole == new:
            self._begin(self._tokens[self._known :])
        return whole

    def rest(self) -> str:
        """Return what was held back, when nothing more comes: an unfinished character is a �."""
        return self._new()

    def _begin(self, tokens: list[int]) -> None:
        """Go on after these, which end with a character."""
        self._tokens, self._known, self._shown = tokens, len(tokens), self._text(tokens)

    def _new(self) -> str:
        text = self._text(self._tokens)
        if text.startswith(self._shown):
            return text[len(self._shown) :]
        # An unfinished character can make those before it unreadable, where bytes are tokens.
        return self._text(self._tokens[self._known :])

    def _text(self, tokens: list[int]) -> str:
        return str(self._tokenizer.decode(tokens, skip_special_tokens=True))
