"""A written kernel and its launch, as text."""

from __future__ import annotations

from dataclasses import dataclass, field

from kernelevolve.translate.emit.writer import Writer
from kernelevolve.translate.plan import Kernel


@dataclass(frozen=True)
class Launch:
    """How ``forward`` launches a kernel.

    Attributes:
        grid: host expressions, one per grid dimension, with knobs in braces.
        constants: knobs that the kernel takes as constexpr.
        derived: constexpr parameters that follow from sizes: name → host expression.
        before: host lines that must run first, with knobs in braces; such as allocations of partial results.
        extra: pointer parameters that are no nodes: parameter → host variable.
    """

    grid: tuple[str, ...]
    constants: tuple[str, ...] = ()
    derived: tuple[tuple[str, str], ...] = ()
    before: tuple[str, ...] = ()
    extra: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class KernelSource:
    """One ``@triton.jit`` function, and what its launch passes.

    Attributes:
        name: the function's name.
        text: its source.
        pointers: pointer parameter → node.
        sizes, constants: parameter → host expression.
        launch: grid and constexprs.
        imports: names of modules that it needs besides triton.
    """

    name: str
    text: str
    pointers: tuple[tuple[str, str], ...]
    sizes: tuple[tuple[str, str], ...]
    constants: tuple[tuple[str, str], ...]
    launch: Launch
    imports: frozenset[str] = field(default_factory=frozenset)


def finish(
    w: Writer, kernel: Kernel, launch: Launch, name: str | None = None, about: str | None = None
) -> KernelSource:
    """Puts a written body together with its signature."""
    name = name or kernel.name
    p = w.parameters
    constants = dict(p.constants)
    extra = [parameter for parameter, _ in launch.extra]
    signature = [*p.pointers, *extra, *(s for s in p.sizes if s not in constants)]
    signature += [f"{c}: tl.constexpr" for c in (*constants, *(k for k, _ in launch.derived), *launch.constants)]
    lines = ["@triton.jit", *_wrapped(f"def {name}(", signature)]
    doc = about if about is not None else kernel.about
    first, *others = doc.splitlines() or [""]
    lines.append(f'    """{first}' + ("" if others else '"""'))
    lines += [f"    {line}".rstrip() for line in others]
    if others:
        lines.append('    """')
    lines += [f"    {line}" for line in w.scopes[0].lines]
    sizes = tuple((k, v) for k, v in p.sizes.items() if k not in constants)
    return KernelSource(
        name, "\n".join(lines), tuple(p.pointers.items()), sizes, tuple(constants.items()), launch, frozenset(w.uses)
    )


def _wrapped(start: str, parameters: list[str]) -> list[str]:
    single = f"{start}{', '.join(parameters)}):"
    if len(single) <= 120:
        return [single]
    return [start, *(f"    {parameter}," for parameter in parameters), "):"]
