"""Reading a single completion: which kernel file does a model's reply give?

In: the reply, and the files that it may change. Out: `Parsed`, or `Unparseable` with what to tell the model. Left to
others: where code is in a text (`blocks`), making a change (`edits`), whether the kernel is any good (`evaluate`).

What is taken is a file that parses as Python and defines `ModelNew` at top level; nothing else is ever taken, and code
is never put together from prose. Between several different files the last one is taken, and the note says so.
"""

from __future__ import annotations

import ast
import builtins
import html
import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from kernelevolve.candidate import ENTRY
from kernelevolve.propose import blocks as found_in
from kernelevolve.propose.blocks import Block
from kernelevolve.propose.edits import NoFit, apply_diff, apply_search, diff_names, is_diff, is_search
from kernelevolve.syntax import parse

LONGEST = 1 << 19  # characters of a reply; no kernel file may have as many
LONGEST_NOTE = 300
_LOOKED_AT = 8  # blocks, the last ones, of which it is said what is wrong
_LONGEST_TAIL = 40  # lines of prose after a file without a fence
_ENTITY = re.compile(r"&(?:lt|gt|amp|quot|apos|#\d+|#x[0-9a-fA-F]+);")
_NUMBERED = re.compile(r"^\s*(\d+)\s?[|:→\t]\s?(.*)$")
_BEGINS = re.compile(r"^(?:import |from \w[\w.]* import |#!|\"\"\"|''')")
_CODE_KEYS = ("code", "source", "kernel", "file", "content", "python", "answer", "text", "new_source", "solution")
_NOTE_KEYS = ("note", "explanation", "summary", "change", "changes", "comment", "description", "rationale")
_LEAD = re.compile(
    r"(?i)^(?:here (?:is|are|'s)|below is|sure|certainly|okay|ok\b|of course|this is the|the (?:full|whole) file)"
)
_CODE_LINE = re.compile(
    r"[=({\[,\\]\s*$|^\s*[@)\]}]|^(?:def|class|if|for|with|return|import|from|elif|else|try|while)\b"
)
_FILE_NAME = re.compile(r"\b(\w+)\.py\b")
_IMPORTS = (ast.Import, ast.ImportFrom)
_INVISIBLE = str.maketrans({"\u00a0": " ", "\u200b": "", "\u200c": "", "\u2060": "", "\ufeff": "", "\u202f": " "})


@dataclass(frozen=True)
class Parsed:
    """A kernel file.

    Attributes:
        source: it parses as Python and defines `ModelNew`.
        note: one sentence out of the reply's prose; empty where there is none.
        how: where it was found, such as `one block` or `a diff of n3`.
    """

    source: str
    note: str
    how: str


@dataclass(frozen=True)
class Unparseable:
    """No kernel file.

    Attributes:
        reason: what to tell the model: what was seen, and what to give instead.
        kind: `empty`, `prose`, `cut`, `syntax`, `lacks`, `change`, `files`, `json` or `long`.
    """

    reason: str
    kind: str


@dataclass(frozen=True)
class _File:
    source: str
    how: str


def parse_reply(reply: str, parents: Mapping[str, str] | None = None, *, cut: bool = False) -> Parsed | Unparseable:
    """The kernel file that a reply gives; never raises.

    Args:
        parents: sources that a diff or a search and replace block may change, by name; the first one before the others.
        cut: whether the model was stopped before the end of its answer.
    """
    if len(reply) > LONGEST:
        return Unparseable(f"the answer has {len(reply):,} characters; a kernel file is far shorter", "long")
    text = reply.replace("\r\n", "\n").replace("\r", "\n").translate(_INVISIBLE)
    text, thinking = found_in.without_thoughts(text)
    text = found_in.unquoted(text)
    if not text.strip():
        if thinking or cut:
            return Unparseable("the answer ended while thinking, before any code; think less and answer", "cut")
        return Unparseable(f"the answer is empty; {_ASK}", "empty")
    return _parsed(text, dict(parents or {}), cut)


def lacks(source: str) -> str:
    """What keeps a text from being a file that defines `ModelNew`; empty for nothing."""
    tree = _tree(source)
    if isinstance(tree, str):
        return f"it is not Python: {tree}"
    if not _defines_entry(tree):
        names = [node.name for node in tree.body if isinstance(node, (ast.ClassDef, ast.FunctionDef))]
        return f"it defines no class {ENTRY} at top level, only {', '.join(names) if names else 'nothing'}"
    return ""


_ASK = "answer with the whole file in one ```python block, and one sentence on what was changed and why"


def _parsed(text: str, parents: dict[str, str], cut: bool, deep: int = 0) -> Parsed | Unparseable:
    wrapped = _from_json(text, parents, cut) if deep == 0 else None
    if wrapped is not None:
        return wrapped
    blocks = found_in.fenced(text)
    if not blocks or not any(_is_code(block) for block in blocks):
        blocks = (*blocks, *found_in.tagged(text))
    for look in (_whole_files, _joined, _changed, _bare):
        result = look(text, blocks, parents, cut)
        if isinstance(result, _File):
            return _told(result, text, blocks)
        if result is not None:
            return result
    return _why_not(text, blocks, cut)


def _told(file: _File, text: str, blocks: tuple[Block, ...]) -> Parsed | Unparseable:
    """The file with its note, unless it needs another file that the reply speaks of."""
    tree = _tree(file.source)
    assert isinstance(tree, ast.Module)
    others = set(_FILE_NAME.findall(text)) | {name for block in blocks for name in _FILE_NAME.findall(block.info)}
    needed = sorted(module for module in _imported(tree) if module in others)
    if needed:
        return Unparseable(
            f"the answer is several files: the one with {ENTRY} imports {', '.join(needed)}; put everything into one "
            f"file, and {_ASK}",
            "files",
        )
    several = f" ({file.how})" if file.how.startswith("the last of") else ""
    code = tuple(block for block in blocks if _is_code(block))
    said = _note(*found_in.prose(text, code)) if code else _note(_around(text, file.source), "")
    return Parsed(file.source, f"{said}{several}".strip(), file.how)


# -- whole files --


def _whole_files(
    text: str, blocks: tuple[Block, ...], parents: dict[str, str], cut: bool
) -> _File | Unparseable | None:
    """The block that is a whole file; of several different ones the last that is no parent's, and it is said so."""
    files: list[_File] = []
    for index, block in enumerate(blocks):
        if _is_change(block.text):
            continue
        if not block.closed and cut:
            continue
        source = _as_file(block)
        if source is None:
            continue
        if _tries_to_join(source, blocks, index):
            continue
        files.append(_File(source, "one block" if block.closed else "one block that is not closed"))
    known = {source.strip() for source in parents.values()}
    new = [file for file in files if file.source.strip() not in known] or files
    different = list({file.source.strip(): file for file in new}.values())
    if not different:
        return None
    last = different[-1]
    return last if len(different) == 1 else replace(last, how=f"the last of {len(different)} different files was taken")


def _as_file(block: Block) -> str | None:
    """The file in a block: as it stands, with its first line that follows the fence, or up to a later fence."""
    if ENTRY not in block.text and not block.longer:
        return None
    texts = [block.text, *block.longer]
    if block.language in ("import", "from"):
        texts.insert(0, f"{block.language} {block.info}\n{block.text}")
    elif block.info:
        texts.append(f"{block.info}\n{block.text}")
    for text in texts:
        for source in _mended(text) if ENTRY in text else ():
            if not lacks(source):
                return _ended(source)
    if not block.closed:
        return _without_tail(block.text)
    return None


def _mended(text: str) -> Iterator[str]:
    """The text as it may have been meant: entities, escaped line ends, line numbers and indentation undone."""
    entities = bool(_ENTITY.search(text))
    if not entities:
        yield text
    else:
        yield html.unescape(text)
        yield text
    if "\\n" in text and text.strip().count("\n") < 3:
        yield from _unescaped(text.strip())
    numbered = [_NUMBERED.match(line) for line in text.split("\n") if line.strip()]
    if len(numbered) > 2 and all(numbered):
        numbers = [int(match[1]) for match in numbered if match]
        if all(b > a for a, b in itertools.pairwise(numbers)):
            yield "\n".join(match[2] if (match := _NUMBERED.match(line)) else "" for line in text.split("\n"))
    if text[:1].isspace():
        yield _dedented(text)


def _unescaped(text: str) -> Iterator[str]:
    """A text whose line ends are written as backslash and n."""
    inner = text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'" else text
    quoted = inner if '\\"' in inner else inner.replace('"', '\\"')
    try:
        yield str(json.loads(f'"{quoted}"', strict=False))
    except ValueError:
        yield inner.replace("\\n", "\n").replace("\\t", "\t")


def _dedented(text: str) -> str:
    lines = text.split("\n")
    widths = [len(line) - len(line.lstrip()) for line in lines if line.strip()]
    least = min(widths, default=0)
    return "\n".join(line[least:] for line in lines)


def _without_tail(text: str) -> str | None:
    """A file with prose after it: the longest beginning that is a file, where what follows can only be prose."""
    lines = text.split("\n")
    for end in range(len(lines) - 1, max(len(lines) - _LONGEST_TAIL, 0), -1):
        if not _is_prose(lines[end]):
            return None
        if not lines[end - 1].strip() and not lacks(source := "\n".join(lines[:end])):
            return _ended(source)
    return None


def _is_prose(line: str) -> bool:
    """Whether a line that is no part of a file can be nothing but prose, or is blank: a cut file must not pass."""
    if not line.strip():
        return True
    words = re.findall(r"[A-Za-z']{2,}", line)
    return not line[0].isspace() and len(words) > 3 and not _CODE_LINE.search(line)


# -- files in pieces --


def _joined(text: str, blocks: tuple[Block, ...], parents: dict[str, str], cut: bool) -> _File | Unparseable | None:
    """Blocks that are one file together: one defines `ModelNew`, and what it lacks the others define."""
    pieces: list[str] = []
    for block in blocks if any(ENTRY in block.text for block in blocks) else ():
        if (cut and not block.closed) or _is_change(block.text):
            continue
        sources = [source for source in _mended(block.text) if not isinstance(_tree(source), str)]
        if sources and sources[0].strip():
            pieces.append(sources[0].strip("\n"))
    trees = [tree for piece in pieces if isinstance(tree := _tree(piece), ast.Module)]
    entries = [i for i, tree in enumerate(trees) if _defines_entry(tree)]
    if len(entries) != 1:
        return None
    wanted, used = _undefined(trees[entries[0]]), {entries[0]}
    while True:
        more = {i for i, tree in enumerate(trees) if i not in used and wanted & _defined(tree)}
        if not more:
            break
        used |= more
        wanted = set().union(*(_undefined(trees[i]) for i in used)) - set().union(*(_defined(trees[i]) for i in used))
    if len(used) == 1:
        return None
    source = _ended("\n\n\n".join(pieces[i] for i in sorted(used)))
    return None if lacks(source) else _File(source, f"{len(used)} blocks that are one file")


def _tries_to_join(source: str, blocks: tuple[Block, ...], index: int) -> bool:
    """Whether a file lacks names that another block, which is no whole file, defines."""
    tree = _tree(source)
    assert isinstance(tree, ast.Module)
    wanted = _undefined(tree)
    others = (
        other for i, block in enumerate(blocks) if i != index and isinstance(other := _tree(block.text), ast.Module)
    )
    # That another block, such as a test beside the file, imports something makes them no parts of one file.
    return bool(wanted) and any(wanted & _made(other) for other in others if not _defines_entry(other))


def _made(tree: ast.Module) -> set[str]:
    """What a file defines at top level: what it imports only where it does nothing else."""
    if all(isinstance(node, _IMPORTS) for node in tree.body):
        return _defined(tree)
    return _defined(tree) - _defined(ast.Module([n for n in tree.body if isinstance(n, _IMPORTS)], []))


def _defined(tree: ast.Module) -> set[str]:
    """What a file defines at top level."""
    names: set[str] = set()
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, _IMPORTS):
            names |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
        else:
            names |= {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    return names


def _undefined(tree: ast.Module) -> set[str]:
    """Names that a file reads and nothing in it binds."""
    bound, read = _defined(tree) | set(dir(builtins)) | {"__file__"}, set[str]()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            (read if isinstance(node.ctx, ast.Load) else bound).add(node.id)
        elif isinstance(node, ast.arg):
            bound.add(node.arg)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            bound.add(node.name)
        elif isinstance(node, _IMPORTS):
            bound |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ExceptHandler) and node.name:
            bound.add(node.name)
    return set() if any(isinstance(n, ast.ImportFrom) and n.names[0].name == "*" for n in tree.body) else read - bound


# -- changes of a parent --


def _changed(text: str, blocks: tuple[Block, ...], parents: dict[str, str], cut: bool) -> _File | Unparseable | None:
    """A parent changed by diffs, or by search and replace blocks; those without a fence too."""
    pieces = [block.text for block in blocks if _is_change(block.text)]
    pieces = list(dict.fromkeys(_unindented(html.unescape(p) if _ENTITY.search(p) else p) for p in pieces))
    bare = not pieces
    if bare and _is_change(text):
        pieces = [_unindented(_from_first_change(text))]
    if not pieces:
        return None
    searches = [piece for piece in pieces if is_search(piece)]
    chosen, apply, what = (searches, apply_search, "search and replace") if searches else (pieces, apply_diff, "a diff")
    if cut and (bare or not all(block.closed for block in blocks)):
        return Unparseable(f"the answer was cut off within {what}; change less at once, or {_ASK}", "cut")
    return _applied(chosen, apply, what, parents)


def _applied(
    pieces: list[str], apply: Callable[[str, str], str], what: str, parents: dict[str, str]
) -> _File | Unparseable:
    named = [name for piece in pieces for name in map(_stem, diff_names(piece))]
    order = sorted(parents, key=lambda name: name not in named) or [""]
    first = ""
    for name in order:
        source = parents.get(name, "")
        try:
            for piece in pieces:
                source = apply(source, piece)
        except NoFit as error:
            why = str(error) if name else f"there is no parent that {what} could change ({error})"
            where = f"{what} of {name}" if name else what
            first = first or f"{where} cannot be made: {why}; quote the lines as they are, or {_ASK}"
            continue
        if why := lacks(source):
            first = first or f"after {what} of {name or 'nothing'} {why}; {_ASK}"
            continue
        if source.strip() == parents.get(name, "").strip():
            first = first or f"{what} changes nothing in {name}; {_ASK}"
            continue
        return _File(_ended(source), f"{what} of {name}" if name else f"{what} of nothing")
    return Unparseable(first, "change")


def _is_change(text: str) -> bool:
    text = _unindented(text)
    return is_search(text) or is_diff(text)


def _unindented(text: str) -> str:
    """A change that stands indented as a whole, where its marks tell by how much."""
    marks = re.search(r"^([ \t]+)(?:@@|<{5,9} ?SEARCH|--- )", text, re.MULTILINE)
    if not marks:
        return text
    return "\n".join(line.removeprefix(marks[1]) for line in text.split("\n"))


def _from_first_change(text: str) -> str:
    found = re.search(r"^(?:diff --git |--- \S|\*\*\* Begin Patch|@@|<{5,9} ?\w*)", text, re.MULTILINE)
    return text[found.start() :] if found else text


def _stem(name: str) -> str:
    return name.rsplit("/", 1)[-1].removesuffix(".py")


# -- texts without a fence --


def _bare(text: str, blocks: tuple[Block, ...], parents: dict[str, str], cut: bool) -> _File | Unparseable | None:
    """The text itself, where it is a file as a whole, or one between prose that begins with its imports."""
    if any(_is_code(block) for block in blocks) or cut:
        return None
    for source in _mended(text.strip("\n")):
        if not lacks(source):
            return _File(_ended(source), "the whole answer")
    lines = text.split("\n")
    starts = [i for i, line in enumerate(lines) if _BEGINS.match(line) and (i == 0 or _is_prose(lines[i - 1]))]
    for start in starts[:8]:
        rest = "\n".join(lines[start:]).rstrip()
        file = _without_tail(rest) if lacks(rest) else rest
        if file is not None and all(_is_prose(line) or line.rstrip().endswith(":") for line in lines[:start]):
            return _File(_ended(file), "a file without a fence")
    return None


# -- JSON --


def _from_json(text: str, parents: dict[str, str], cut: bool) -> Parsed | Unparseable | None:
    """What a reply that is JSON as a whole, or one block or tag of JSON, says; None where it is none."""
    body = text.strip()
    if tag := re.match(r"<(\w+)>", body):
        body = body[tag.end() :].removesuffix(f"</{tag[1]}>").strip()
    blocks = found_in.fenced(body)
    if len(blocks) == 1 and (blocks[0].language in ("json", "json5") or blocks[0].text.lstrip()[:1] == "{"):
        body = blocks[0].text.strip()
    if not re.match(r'^(?:\{\s*"|\[\s*\{\s*"|"(?:[^"\\]|\\.)*"\s*$)', body):
        return None
    try:
        data = json.loads(body, strict=False)
    except RecursionError:
        return Unparseable(f"the answer is JSON that is nested too deeply; {_ASK}", "json")
    except ValueError as error:
        if ENTRY not in body and "code" not in body:
            return None
        cut_off = "cut off or broken: " if cut or not body.endswith(("}", "]", '"')) else ""
        return Unparseable(f"the answer is JSON that cannot be read, {cut_off}{error}; {_ASK}", "json")
    texts = [value for _, value in sorted(_strings(data), key=lambda pair: _rank(pair[0]))]
    notes = [value for key, value in _strings(data) if key in _NOTE_KEYS]
    for value in texts:
        found = _parsed(value, parents, cut, deep=1)
        if isinstance(found, Parsed):
            said = found.note or _note(notes[0] if notes else "", "")
            return Parsed(found.source, said, f"JSON with {found.how}")
    return Unparseable(f"the answer is JSON without a text that is a file with {ENTRY}; {_ASK}", "json")


def _rank(key: str) -> int:
    return _CODE_KEYS.index(key) if key in _CODE_KEYS else len(_CODE_KEYS)


def _strings(data: Any, key: str = "", depth: int = 0) -> Iterator[tuple[str, str]]:
    if isinstance(data, str):
        yield key, data
    elif isinstance(data, dict) and depth < 8:
        for name, value in data.items():
            yield from _strings(value, str(name).lower(), depth + 1)
    elif isinstance(data, list) and depth < 8:
        if data and all(isinstance(line, str) for line in data):
            yield key, "\n".join(data)
        for value in data:
            if not isinstance(value, str):
                yield from _strings(value, key, depth + 1)


# -- why there is none, notes, Python --


def _why_not(text: str, blocks: tuple[Block, ...], cut: bool) -> Unparseable:
    code = [block for block in blocks if _is_code(block)][-_LOOKED_AT:]
    unclosed = [block for block in code if not block.closed]
    if unclosed and (cut or ENTRY in unclosed[-1].text or isinstance(_tree(unclosed[-1].text), str)):
        return Unparseable(
            f"the answer was cut off within the file, after {unclosed[-1].text.count(chr(10)) + 1} lines; give a "
            f"shorter file, or {_ASK}",
            "cut",
        )
    with_entry = [block for block in code if re.search(rf"class\s+{ENTRY}\b", block.text)]
    if with_entry:
        block = with_entry[-1]
        kind = "syntax" if isinstance(_tree(block.text), str) else "lacks"
        return Unparseable(f"the file in the answer cannot be used: {lacks(block.text)}; {_ASK}", kind)
    broken = [block for block in code if isinstance(_tree(block.text), str)]
    if code and len(broken) == len(code):
        return Unparseable(f"the code in the answer cannot be used: {lacks(code[-1].text)}; {_ASK}", "syntax")
    if code:
        parsed = [block for block in code if block not in broken]
        return Unparseable(f"the code in the answer is no whole file: {lacks(parsed[-1].text)}; {_ASK}", "lacks")
    if cut:
        return Unparseable(f"the answer was cut off before any code was complete; {_ASK}", "cut")
    if re.search(rf"^class\s+{ENTRY}\b", text, re.MULTILINE):
        return Unparseable(f"there is code without a fence which is no whole file ({lacks(text)}); {_ASK}", "syntax")
    return Unparseable(f"the answer has no code: {_short(text)!r}; {_ASK}", "prose")


def _is_code(block: Block) -> bool:
    words = ("", "python", "py", "python3", "triton", "code", "kernel", "file", "diff", "patch")
    return bool(block.text.strip()) and (block.language in words or ENTRY in block.text or _is_change(block.text))


def _note(before: str, after: str) -> str:
    """The first sentence after the code, else the last one before it that says more than that here is the code."""
    for sentence in (*_sentences(after), *reversed(_sentences(before))):
        if not _LEAD.match(sentence) and not sentence.endswith(":"):
            return _short(sentence, LONGEST_NOTE)
    return ""


def _around(text: str, source: str) -> str:
    """The prose around a file that stands in a text without a fence; nothing where it does not stand there as it is."""
    return text.replace(source.strip(), "") if source.strip() in text else ""


def _sentences(text: str) -> list[str]:
    plain = re.sub(r"<[^<>\n]{1,60}>|[*_`#>~]+", "", text)
    plain = " ".join(re.sub(r"^\s*[-+•]\s+|^\s*\d+[.)]\s+", "", line).strip() for line in plain.split("\n"))
    found = re.split(r"(?<=[.!?])\s+(?=[A-Z])|(?<=:)\s+", plain)
    return [sentence.strip() for sentence in found if len(re.findall(r"\w+", sentence)) > 2]


def _short(text: str, most: int = 80) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= most else f"{flat[: most - 3].rstrip()}..."


def _tree(source: str) -> ast.Module | str:
    """The syntax tree, or what is wrong."""
    try:
        return parse(source)
    except SyntaxError as error:
        return f"line {error.lineno}: {error.msg}"
    except (ValueError, RecursionError, MemoryError) as error:
        return str(error) or "it is nested too deeply"


def _defines_entry(tree: ast.Module) -> bool:
    return any(isinstance(node, ast.ClassDef) and node.name == ENTRY for node in tree.body)


def _imported(tree: ast.Module) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


def _ended(source: str) -> str:
    return source.strip("\n") + "\n"
