"""Completion in bash of words with a colon, such as the names of tasks.

bash takes a colon for the end of a word: of `call acme:Sy` it hands over the words `call`, `acme`, `:` and `Sy`, and
puts what it is given in place of the last one. So the words are put together again, and the answers lose what stands
there already.
"""

from __future__ import annotations

from click.shell_completion import BashComplete, CompletionItem


class ColonsInBash(BashComplete):
    """Completes words with a colon in them."""

    _stands_already = ""

    def get_completion_args(self) -> tuple[list[str], str]:
        """The words before the one to complete, and what there is of that one."""
        words, last = super().get_completion_args()
        whole: list[str] = []
        glue = False
        for word in [*words, last]:
            if whole and (glue or word == ":"):
                self._stands_already = whole[-1] if word != ":" else f"{whole[-1]}:"
                whole[-1] += word
            else:
                self._stands_already = ""
                whole.append(word)
            glue = word == ":"
        return whole[:-1], whole[-1]

    def get_completions(self, args: list[str], incomplete: str) -> list[CompletionItem]:
        """What may stand in place of the last of bash's words."""
        items = super().get_completions(args, incomplete)
        for item in items:
            item.value = item.value.removeprefix(self._stands_already)
        return items
