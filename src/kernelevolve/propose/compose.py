"""Composing: from what a brief may tell to a prompt that fits its budget, and a list of what it is made of.

In: a `Context`, and a number of tokens. Out: Markdown and its `Section`s. Left to others: what there is to tell
(`memory`, `diagnose`, `deep`), how it reads (`prose`, `prompts/*.md`).

A prompt is made of sections, a section of pieces: a source, a passage, a line. A piece is in the prompt as a whole or
not at all. Where not everything fits, pieces are left out in the order of `LEFT_OUT` until the rest does. The rules of
the file, the task and what a person noted are always there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from kernelevolve.candidate import Section
from kernelevolve.errors import UsageError
from kernelevolve.graph import Node
from kernelevolve.hardware import HardwareFigures
from kernelevolve.problem import Problem
from kernelevolve.propose.compare import compare_parents
from kernelevolve.propose.deep import Passage
from kernelevolve.propose.diagnose import Diagnosis
from kernelevolve.propose.memory import Memory
from kernelevolve.propose.prose import (
    details,
    fenced,
    fill,
    findings,
    hardware_text,
    has_open_fence,
    listed,
    one_line,
    problem_text,
    source_text,
    template,
)
from kernelevolve.propose.tokens import tokens
from kernelevolve.settings import PROMPT_TOKENS

#: What is left out first, and whether of several the last or the first (the oldest) goes first; docs/briefs.md says
#: why.
LEFT_OUT: tuple[tuple[str, str], ...] = (
    ("earlier", "last"),
    ("passage", "last"),
    ("beside", "first"),
    ("lineage", "first"),
    ("sibling", "first"),
    ("repeat", "first"),
    ("best", "first"),
    ("other parent", "last"),
    ("first passage", "last"),
    ("detail", "last"),
    ("lost", "first"),
    ("comparison", "last"),
    ("hardware", "last"),
    ("diagnosis", "last"),
    ("source", "last"),
    ("findings", "last"),
)
#: Passages of a prompt, and the share of its tokens that they may have together.
MOST_PASSAGES, KNOWLEDGE_SHARE = 12, 0.4


@dataclass(frozen=True)
class Piece:
    """What is in a prompt as a whole or not at all.

    Attributes:
        kind: of `LEFT_OUT`; empty for what is always there.
        instead: what stands in its place where it is left out.
    """

    text: str
    kind: str = ""
    instead: str = ""


@dataclass(frozen=True)
class Part:
    """A section to be.

    Attributes:
        name: of its `Section`.
        blank: of `prompts/brief.md`.
        pieces: in the order in which they are read.
        head: above them, if there are any.
        between: them.
        why: there are none.
    """

    name: str
    blank: str
    pieces: tuple[Piece, ...]
    head: str = ""
    between: str = "\n"
    why: str = ""


@dataclass(frozen=True)
class Context:
    """All that a brief may tell.

    Attributes:
        parents: of the next child.
        diagnosis: of the first one.
        passages: of the library, the most useful first.
        notes: by a person.
        prefer: the kind of change to prefer.
        unknown: why there are no passages.
        rules: of the platform for writers, as Markdown.
    """

    problem: Problem
    platform: str
    parents: tuple[Node, ...] = ()
    diagnosis: Diagnosis | None = None
    memory: Memory = field(default_factory=lambda: Memory("", (), ()))
    figures: HardwareFigures | None = None
    passages: tuple[Passage, ...] = ()
    notes: tuple[str, ...] = ()
    prefer: str = ""
    unknown: str = "nothing was looked up"
    rules: str = ""


def compose(context: Context, most: int = PROMPT_TOKENS) -> tuple[str, tuple[Section, ...]]:
    """The prompt, and what it is made of in its order, with what was left out.

    Args:
        most: tokens of the prompt, as `tokens` estimates them.

    Raises:
        UsageError: not even what is always there fits.
    """
    parts = parts_of(context, most)
    frame = _frame(context)
    dropped, total = _fitted(parts, most - frame)
    total += frame
    if total > most:
        raise UsageError(
            f"the smallest prompt for {context.problem.name} has about {total} tokens (the rules, the reference and "
            f"{len(context.notes)} notes by a person), and prompts may have {most}; give more: --prompt-tokens {total}"
            + (", or clear the notes: kernelevolve note RUN --clear" if context.notes else "")
        )
    blanks: dict[str, list[str]] = {}
    for at, part in enumerate(parts):
        blanks.setdefault(part.blank, []).append(_text(part, dropped.get(at, set())))
    filled = {blank: _under(_HEADINGS.get(blank, ""), texts) for blank, texts in blanks.items()}
    prompt = fill(template("brief"), {**dict.fromkeys(_BLANKS, ""), **filled, "now": _now(context)}).rstrip() + "\n"
    sections = (_section(part, dropped.get(at, set())) for at, part in enumerate(parts))
    return prompt, (Section("instructions", frame), *sections)


def refuse_unfitting(problem: Problem, platform: str, most: int, notes: tuple[str, ...] = ()) -> None:
    """Refuses a number of tokens into which no brief of this problem fits, before anything is spent.

    Raises:
        UsageError: see `compose`.
    """
    compose(Context(problem, platform, notes=notes), most)


# -- what fits


def _fitted(parts: Sequence[Part], most: int) -> tuple[dict[int, set[int]], int]:
    """The pieces that are left out, by part, and the tokens of what stays."""
    dropped: dict[int, set[int]] = {}
    total = sum(_size(part, ()) for part in parts)
    for at, which in _leaving(parts):
        if total <= most:
            break
        gone = dropped.setdefault(at, set())
        before = _size(parts[at], gone)
        gone.add(which)
        total += _size(parts[at], gone) - before
    return dropped, total


def _leaving(parts: Sequence[Part]) -> list[tuple[int, int]]:
    """All pieces that may be left out, in the order in which they are."""
    found: dict[str, list[tuple[int, int]]] = {kind: [] for kind, _ in LEFT_OUT}
    for at, part in enumerate(parts):
        for which, piece in enumerate(part.pieces):
            if piece.kind:
                found[piece.kind].append((at, which))
    return [place for kind, end in LEFT_OUT for place in (found[kind] if end == "first" else found[kind][::-1])]


def _size(part: Part, dropped: Iterable[int]) -> int:
    """Tokens of a part without some of its pieces; a line break more for each, which is what joining costs at most."""
    gone = set(dropped)
    texts = [p.instead if at in gone else p.text for at, p in enumerate(part.pieces)]
    texts = [text for text in texts if text]
    if not texts:
        return 0
    return sum(tokens(text) + 1 for text in texts) + (tokens(part.head) + 1 if part.head else 0) + 1


def _text(part: Part, dropped: Iterable[int]) -> str:
    gone = set(dropped)
    texts = [p.instead if at in gone else p.text for at, p in enumerate(part.pieces)]
    texts = [text for text in texts if text]
    if not texts:
        return ""
    return (f"{part.head}\n\n" if part.head else "") + part.between.join(texts)


def _under(heading: str, texts: Iterable[str]) -> str:
    text = "\n\n".join(text for text in texts if text)
    return f"{heading}\n\n{text}" if heading and text else text


def _section(part: Part, dropped: Iterable[int]) -> Section:
    gone = set(dropped)
    left = _size(part, gone)
    if not part.pieces:
        return Section(part.name, 0, False, part.why)
    if not gone:
        return Section(part.name, left)
    whole = _size(part, ())
    if len(gone) == len(part.pieces) and not left:
        return Section(part.name, 0, False, f"no room for its {whole} tokens")
    kept = len(part.pieces) - len(gone)
    return Section(part.name, left, True, f"no room for {whole - left} of its {whole} tokens: {kept} of "
                   f"{len(part.pieces)} pieces are there")  # fmt: skip


# -- what there is to tell


def parts_of(context: Context, most: int = PROMPT_TOKENS) -> tuple[Part, ...]:
    """The sections of a prompt of `most` tokens before anything of them is left out, in their order."""
    nodes, diagnosis = context.parents, context.diagnosis
    figures = fill(template("hardware"), {"figures": hardware_text(context.figures)}).rstrip()
    parts = [
        Part("constraints", "constraints", (Piece(template("constraints").rstrip()),)),
        Part("task", "task", (Piece(problem_text(context.problem, context.platform)),)),
        Part(
            "hardware", "hardware",
            tuple(Piece(text, "hardware") for text in (figures, context.rules.strip()) if text), between="\n",
        ),
        Part(
            "notes", "steering", tuple(Piece(f"- {one_line(note)}") for note in context.notes), _STEERING,
            why="nobody has noted anything",
        ),
    ]  # fmt: skip
    parts += [_parent(node, at) for at, node in enumerate(nodes)]
    lines = compare_parents(nodes)
    if len(nodes) > 1:
        parts.append(
            Part("comparison", "comparison", tuple(Piece(f"- {line}", "comparison") for line in lines), _COMPARISON,
                 why="nothing tells them apart")
        )  # fmt: skip
    parts.append(_diagnosis(nodes[0] if nodes else None, diagnosis))
    parts.append(_lost(diagnosis, context.memory))
    parts += _memory(context.memory)
    parts += _knowledge(context, int(KNOWLEDGE_SHARE * most))
    return tuple(parts)


_STEERING = "## What the person who runs this search asks for\n\nThis goes before everything below."
_ANSWER = "Answer with the whole file in one fenced block, and one sentence that says what was changed and why."
_OPEN = "a code block of it does not end; see: kernelevolve knowledge check"
_COMPARISON = "### What each parent is better at"
_BLANKS = ("constraints", "task", "hardware", "steering", "parents", "comparison", "diagnosis", "memory", "knowledge")
_HEADINGS = {
    "parents": "## Parents",
    "memory": "## What this run has learned",
    "knowledge": "## What is known\n\nQuoted from the library, the most useful first.",
}


def _parent(node: Node, at: int) -> Part:
    """A parent: its source, what decides, and what else is known. The first one may lose the three one by one."""
    role = " (go on from this one)" if at == 0 else " (take over what is better here)"
    said = f"\n\nIts writer said: {one_line(node.candidate.note)}" if node.candidate.note else ""
    found = listed(findings(node.evaluation, node.fitness))
    source, more = source_text(node), listed(details(node.evaluation))
    if at:
        pieces = [Piece(f"{source}{said}\n\nThe harness found:\n\n{found}\n{more}".rstrip(), "other parent")]
    else:
        lacking = f"Its source has about {tokens(source)} tokens and does not fit here: write the file anew."
        brief = f"verdict: {node.verdict.value}"
        pieces = [
            Piece(source + said, "source", lacking),
            Piece(f"The harness found:\n\n{found}", "findings", f"The harness found: {brief}."),
            Piece(more, "detail"),
        ]
    pieces = [piece for piece in pieces if piece.text]
    return Part(f"parent {node.id}", "parents", tuple(pieces), f"### {node.id}{role}", "\n\n")


def _diagnosis(node: Node | None, diagnosis: Diagnosis | None) -> Part:
    if node is None or diagnosis is None:
        return Part("diagnosis", "diagnosis", (), why="there is no parent to diagnose")
    main = [f"Limited by **{diagnosis.limit}**: {one_line(diagnosis.evidence)}."]
    if diagnosis.directive:
        main.append(f"Do this next: {one_line(diagnosis.directive)}")
    if diagnosis.tries:
        main.append("Worth trying, most promising first:\n\n" + listed(diagnosis.tries))
    pieces = [Piece("\n\n".join(main), "diagnosis")]
    if diagnosis.lines:
        pieces.append(Piece("Evidence:\n\n" + listed(map(one_line, diagnosis.lines)), "detail"))
    if diagnosis.later:
        pieces.append(Piece("Put off until this is better:\n\n" + listed(map(one_line, diagnosis.later)), "detail"))
    if diagnosis.said:
        pieces.append(Piece(f"({one_line(diagnosis.said)})", "detail"))
    return Part("diagnosis", "diagnosis", tuple(pieces), f"## What limits {node.id}", "\n\n")


def _lost(diagnosis: Diagnosis | None, memory: Memory) -> Part:
    said = diagnosis.avoid if diagnosis is not None else ()
    pieces = tuple(Piece(f"- {one_line(line)}", "lost") for line in (*said, *memory.lost))
    why = f"memory {memory.mode}" if memory.mode.startswith("none") else "nothing has lost yet"
    return Part("tried", "diagnosis", pieces, "Already tried, and lost; do not repeat:", why=why)


def _memory(memory: Memory) -> list[Part]:
    gained = tuple(line for line in memory.children if line not in memory.lost)
    told = [
        ("best", "best", "Best so far:", (memory.best,) if memory.best else ()),
        ("lineage", "lineage", "How the first parent came about:", memory.lineage),
        ("siblings", "sibling", "Already tried from here:", gained),
        ("beside", "beside",
         "Written beside the first parent, not from it; what gained there may be taken over:", memory.beside),
        ("repeats", "repeat",
         "Repeats: these were kernels that the run had already; change what is computed or how:", memory.repeats),
        ("earlier", "earlier", "From earlier runs (other problems or machines may differ):", memory.earlier),
    ]  # fmt: skip
    why = f"memory {memory.mode}" if memory.mode.startswith("none") else "there is nothing to tell yet"
    parts: list[Part] = []
    for name, kind, title, lines in told:
        pieces = tuple(Piece(f"- {one_line(line)}", kind) for line in lines)
        parts.append(Part(f"memory {name}", "memory", pieces, title, why=why))
    return parts


def _knowledge(context: Context, room: int) -> list[Part]:
    """Passages in their order, as many as may be quoted; one that does not fit makes room for later, shorter ones."""
    parts: list[Part] = []
    quoted = 0
    for at, passage in enumerate(context.passages):
        if quoted == MOST_PASSAGES:
            left = len(context.passages) - at
            parts.append(Part("knowledge", "knowledge", (), why=f"{left} more passages: {MOST_PASSAGES} are quoted"))
            break
        part = _passage(passage, "passage" if quoted else "first passage")
        size = _size(part, ())
        if size > room:
            part = replace(part, pieces=(), why=f"no room for its {size} tokens among what the library may take")
        room -= size if part.pieces else 0
        quoted += bool(part.pieces)
        parts.append(part)
    return parts or [Part("knowledge", "knowledge", (), why=context.unknown)]


def _passage(passage: Passage, kind: str) -> Part:
    name = f"knowledge {passage.path}" + (f"#{passage.heading}" if passage.heading else "")
    code = passage.path.endswith(".py")
    # The library quotes code as a block already; other libraries may give it as it is.
    text = fenced(passage.text, "python") if code and not passage.text.startswith("```") else passage.text.strip("\n")
    if has_open_fence(text):
        return Part(name, "knowledge", (), why=_OPEN)
    if passage.heading and not code:
        text = f"### {one_line(passage.heading)}\n\n{text}"
    head = f"From `{passage.path}`{f' ({one_line(passage.why)})' if passage.why else ''}:"
    return Part(name, "knowledge", (Piece(text, kind),), head)


def _now(context: Context) -> str:
    names = [node.id for node in context.parents]
    if not names:
        text = "There is no parent: write a first kernel. Prefer one that is correct and simple to one that is clever."
    elif len(names) == 1:
        text = f"Write the next version of {names[0]}: correct, and faster than it."
        if context.parents[0].correct is False:
            text = f"Write the next version of {names[0]}: repair what the harness found first."
    else:
        others = ", ".join(names[1:])
        text = f"Go on from {names[0]}; take over from {others} what is better there, and say what it was."
    if context.prefer:
        text += f"\n\nPrefer this kind of change: {context.prefer}."
    return f"{text}\n\n{_ANSWER}"


def _frame(context: Context) -> int:
    """Tokens of `prompts/brief.md` itself, of all headings, and of what is to be done now."""
    texts = (template("brief"), *_HEADINGS.values(), _now(context))
    return sum(tokens(text) + 1 for text in texts)
