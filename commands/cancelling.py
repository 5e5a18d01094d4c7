"""How commands stop what is not finished."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TextIO

from tintype.commands.client import CommandError


def cancel_each(
    kind: str, idents: Iterable[str], cancel: Callable[[str], Mapping[str, Any]], out: TextIO
) -> None:
    """Ask for each; one that cannot be stopped does not keep the others from it.

    `kind` is snapshot or restore. Raises CommandError with all that went wrong.
    """
    errors = []
    for ident in idents:
        try:
            stopping = cancel(ident)
        except CommandError as error:
            errors.append(str(error))
        else:
            out.write(f"{kind} {stopping[f'{kind}_id']} is being cancelled\n")
    if errors:
        raise CommandError("; ".join(errors))
