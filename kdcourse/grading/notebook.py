"""What a notebook defines, without running it. Shared with the sandbox: knows no question.

Kept, from all code cells in order: functions, classes, imports, and names that are given a literal (`T = 4.0`).
Dropped: everything else, so that training, plots and magics cost nothing and break nothing. The last definition wins.
"""

import ast
import json
import linecache
import re
from typing import Any

from .runner import Failure

KEPT = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Import | ast.ImportFrom


class Notebook:
    """The definitions of a notebook's bytes; `Failure` where they are no notebook."""

    def __init__(self, raw: bytes) -> None:
        self.assigned: dict[str, tuple[str, ast.stmt]] = {}  # the last assignment of each name, and its cell
        self.dropped: dict[str, str] = {}  # names that only a call would make, and where
        self._nodes: list[tuple[str, ast.stmt]] = []
        try:
            sources = ["".join(cell["source"]) for cell in json.loads(raw)["cells"] if cell["cell_type"] == "code"]
        except (ValueError, TypeError, KeyError, RecursionError):
            raise Failure("no verdict", "the file is not a notebook (.ipynb, format 4).") from None
        for number, source in enumerate(sources, 1):
            # A line for IPython is no Python; without it the rest of its cell may be.
            lines = ["" if line[:1] in ("%", "!", "?") else line for line in source.splitlines()]
            try:
                body = ast.parse("\n".join(lines)).body
            except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
                what = f"{getattr(error, 'msg', error)}, line {getattr(error, 'lineno', '?')} of code cell {number}"
                self.dropped |= dict.fromkeys(
                    re.findall(r"^def (\w+)", source, re.M), f"its cell is not Python ({what})"
                )
                continue
            name = f"<cell {number}>"
            linecache.cache[name] = (len(source), None, [line + "\n" for line in lines], name)
            for node in body:
                self._sort(name, node)

    def _sort(self, cell: str, node: ast.stmt) -> None:
        if isinstance(node, KEPT):
            self._nodes.append((cell, node))
            return
        targets = getattr(node, "targets", [getattr(node, "target", None)])
        assigns = isinstance(node, ast.Assign | ast.AnnAssign)
        parts = [part for target in targets if assigns for part in getattr(target, "elts", [target])]
        names = [part.id for part in parts if isinstance(part, ast.Name)]
        whole = bool(names) and len(names) == len(parts)
        try:
            if whole:
                ast.literal_eval(node.value)
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
            where = f"line {node.lineno} of {cell[1:-1]}"
            self.dropped |= dict.fromkeys(names, f"only functions, imports and literals are taken; {where} is a call")
        else:
            self._nodes += [(cell, node)] if whole else []
        self.assigned |= dict.fromkeys(names, (cell, node))

    def namespace(self) -> dict[str, Any]:
        """The definitions, executed: for a process that may be lost."""
        space: dict[str, Any] = {"__name__": "notebook"}
        for cell, node in self._nodes:
            try:
                exec(compile(ast.Module([node], []), cell, "exec"), space)
            except ImportError as error:
                for alias in node.names if isinstance(node, ast.Import | ast.ImportFrom) else ():
                    source = getattr(node, "module", None) or alias.name
                    space[alias.asname or alias.name.split(".")[0]] = _Missing(source, str(error))
            except Exception as error:
                self.dropped[getattr(node, "name", "")] = f"{type(error).__name__}: {error}"
        return space

    def value(self, space: dict[str, Any], name: str) -> Any:
        """What that name is given last, computed if need be; `...` if nothing is."""
        if name not in self.assigned:
            return ...
        cell, node = self.assigned[name]
        own = dict(space)
        try:
            exec(compile(ast.Module([node], []), cell, "exec"), own)
        except Exception as error:
            reason = f"{name} cannot be computed by itself: {type(error).__name__}: {error}"
            raise Failure("no verdict", reason) from None
        return own[name]

    def function(self, space: dict[str, Any], name: str) -> Any:
        """The function of that name; `Failure` if there is none."""
        if name in space and not isinstance(space[name], _Missing):
            return space[name]
        reason = f": {self.dropped[name]}" if name in self.dropped else " in the notebook"
        raise Failure("no verdict" if name in self.dropped else "unanswered", f"there is no `{name}`{reason}.")


class _Missing:
    """A name whose import failed: it complains when it is used, not before."""

    def __init__(self, module: str, error: str) -> None:
        ours, says = module.split(".")[0] == "kdcourse", f"{module} cannot be imported where this is graded ({error})"
        self.__dict__["_says"] = f"this is graded without {module}: write it yourself" if ours else says

    def __getattr__(self, *_: Any, **named: Any) -> Any:
        raise NameError(self._says)

    __call__ = __getattr__
