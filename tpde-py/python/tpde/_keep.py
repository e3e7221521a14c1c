"""Which checkpoints of a run stay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tpde._errors import InputError

#: Metric, how many, and ``"max"`` if more is better.
Best = tuple[str, int] | tuple[str, int, str]


@dataclass(frozen=True)
class Keep:
    """Rules, each of which keeps some checkpoints; what none of them keeps is forgotten after a save.

    The newest is always kept. What is forgotten can be put back with ``tpde undo`` until ``tpde gc`` deletes its contents.

    * ``last``: the newest so many.
    * ``every``: those whose step is a multiple of this.
    * ``best``: ``("val_loss", 3)`` for the three lowest, ``("accuracy", 3, "max")`` for the three highest; or a list of such.
    * ``tags``: those that a tag stands for.
    * ``within``: those committed at most so long ago: ``"12h"``, ``"7d"``.
    """

    last: int | None = None
    every: int | None = None
    best: Best | Sequence[Best] = ()
    tags: bool = True
    within: str | None = None

    def __post_init__(self) -> None:
        if self.last is None and self.every is None and not self.best and self.within is None:
            raise InputError("keep: there is no rule in it. Give it one, such as Keep(last=3), or leave keep out")
        for name in ("last", "every"):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < 1):
                raise InputError(f"keep: {name} is {value!r}. Give it a whole number from 1 on")
        self.rules()

    def rules(self) -> list[str]:
        """``best`` as the store takes it."""
        best = self.best
        rules: list[Best] = [best] if best and isinstance(best[0], str) else list(best)  # type: ignore[list-item,arg-type]
        written = []
        for rule in rules:
            if not (isinstance(rule, tuple) and len(rule) in (2, 3) and rule[2:] in ((), ("min",), ("max",))):
                raise InputError(f'keep: {rule!r} is no rule. Write ("val_loss", 3) or ("accuracy", 3, "max")')
            written.append(":".join(map(str, rule)))
        return written
