"""`mmcomponents completion`: completion of the command in bash and zsh."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from mmcomponents import registry
from mmcomponents.cli.terminal.parser import Parser

SCRIPT = """\
# bash: eval "$(mmcomponents completion)"; zsh: autoload -U +X bashcompinit && bashcompinit first
_mmcomponents() {
    local IFS=$'\\n'
    COMPREPLY=($("${COMP_WORDS[0]}" completion --words "${COMP_CWORD}" "${COMP_WORDS[@]}" 2>/dev/null))
}
complete -o default -o bashdefault -F _mmcomponents mmcomponents
"""


def main(verb: str, argv: list[str]) -> int:
    """Runs the verb."""
    if argv[:1] == ["--words"] and len(argv) > 2 and argv[1].isdecimal():
        sys.stdout.writelines(f"{word}\n" for word in candidates(argv[3:], int(argv[1]) - 1))
        return 0
    parser = Parser(
        prog=f"mmcomponents {verb}",
        description='Print a script that completes verbs, recipes, parts and keys: eval "$(mmcomponents completion)"',
        allow_abbrev=False,
    )
    parser.parse_args(argv)
    sys.stdout.write(SCRIPT)
    return 0


def candidates(words: list[str], place: int) -> list[str]:
    """Returns the completions of a word.

    Args:
        words: Words after `mmcomponents`.
        place: Place of the word that is completed.
    """
    typed = words[place] if place < len(words) else ""
    before = words[place - 1] if place else ""
    return sorted(word for word in {*_words(words, place, before)} if word.startswith(typed))


def _words(words: list[str], place: int, before: str) -> Iterable[str]:
    from mmcomponents.cli.main import VERBS
    from mmcomponents.cli.recipes.early_check import TRAINER_VERBS, keys_of

    if place == 0:
        return VERBS
    if before in ("--config", "-c"):
        from mmcomponents.cli.recipes.recipe import shipped

        return shipped()
    slot = before.removeprefix("--model.")
    if before.startswith("--model.") and slot in registry.slots():
        return [part.name for part in registry.available(slot)]
    if words[0] == "data" and place == 1:
        from mmcomponents.cli.data import KINDS

        return KINDS
    if words[0] == "components" and place == 1:
        return registry.slots()
    if words[0] in TRAINER_VERBS:
        return ["--config", *(f"--{key}" for key in keys_of(words[0]))]
    return []
