"""What a writer session works on: the working file, what may be read, and what is known of each version of the file.

In: the calls of a model. Out: short texts for it, each with what to do next. Left to others: talking to the model
(`session`), the tools themselves (`evaluate.tools`), what is known before the run (`knowledge`).

A wrong call is answered and counted, never raised; the same one REPEATS times over ends the session. What the tools
raise is the machine's fault and goes through.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from kernelevolve.errors import UnknownName
from kernelevolve.propose.edits import NoFit, replace_once
from kernelevolve.propose.reply import Parsed, lacks, parse_reply
from kernelevolve.tools import Report, Tools

FILE = "kernel.py"
REFERENCE = "reference.py"
REPEATS = 3
LONGEST_RESULT = 4000  # characters of a tool's report
LONGEST_FILE = 40_000  # characters of a file that is read
LONGEST_ARTICLE = 16_000
_FEW = 4  # steps left from which results say so
_CLEAN = "The file is clean: answer with one sentence on what was changed and why, and nothing else."


@dataclass
class Known:
    """What was found of one version of the file: a report by each tool, None where it was not asked."""

    check: Report | None = None
    compile: dict[str, Report] = field(default_factory=dict)
    interpret: Report | None = None


class Desk:
    """One session's working file, with what was found of it.

    Args:
        work: the file to begin with; empty for a first kernel.
        read: the text of another file by name; None where there is none.
        files: names of files to read, for messages.
        known: sources that are no answer, because the run has them, by digest, with their names.
        tools: None where nothing can be tried out.
        library: see `knowledge.library.Library`; None where nothing is known.
        steps: most calls.

    Attributes:
        changes: how often the working file was changed.
        ended: why the session must end; empty to go on.
    """

    def __init__(
        self,
        work: str,
        *,
        read: Callable[[str], str | None],
        files: Sequence[str] = (),
        known: dict[str, str] | None = None,
        tools: Tools | None = None,
        library: Any = None,
        platform: str = "",
        steps: int = 20,
    ) -> None:
        self.source, self.steps, self.taken, self.ended, self.changes = work, steps, 0, "", 0
        self._read, self._files, self._known = read, tuple(files), known or {}
        self._tools, self._library, self._platform = tools, library, platform
        self._found: dict[str, Known] = {}
        self._versions: dict[str, str] = {}  # what was written here, by digest; the latest last
        self._wrong: Counter[str] = Counter()
        self._asked: Counter[str] = Counter()

    @property
    def target(self) -> str:
        """The platform that must be compiled for."""
        return self._tools.targets[0] if self._tools is not None and self._tools.targets else self._platform

    def step(self) -> bool:
        """Takes a step; whether there was one left."""
        if self.taken >= self.steps:
            self.ended = self.ended or f"out of steps ({self.steps})"
            return False
        self.taken += 1
        return not self.ended

    def wrong(self, call: str, args: Any, said: str) -> str:
        """What the model is told of a call that cannot be carried out; counts it.

        Args:
            args: JSON data, by which the same call is known again.
        """
        key = hashlib.sha256(f"{call} {json.dumps(args, sort_keys=True, default=str)}".encode()).hexdigest()
        self._wrong[key] += 1
        if self._wrong[key] >= REPEATS:
            self.ended = self.ended or f"the model made the same wrong call of {call} {REPEATS} times: {said[:200]}"
        return f"Not done: {said}."

    # -- the tools --

    async def read(self, file: str) -> str:
        """A file by name."""
        name = file.strip().removeprefix("./").rsplit("/", 1)[-1]
        if name in (FILE, FILE.removesuffix(".py")):
            return self.source or f"{FILE} is empty: write it."
        text = self._read(name.removesuffix(".py"))
        if text is None:
            near = difflib.get_close_matches(name, self._files, 1)
            meant = f"; did you mean {near[0]}?" if near else ""
            return self.wrong("read", file, f"there is no file {file!r:.80}; files: {', '.join(self._files)}{meant}")
        return text if len(text) <= LONGEST_FILE else f"{text[:LONGEST_FILE]}\n... ({len(text)} characters in all)"

    async def write(self, source: str) -> str:
        """Puts a whole file in place of the working file."""
        remark = ""
        if lacks(source) and isinstance(found := parse_reply(source), Parsed):
            source, remark = found.source, f" (read as {found.how})"
        if not source.strip():
            return self.wrong("write", source, "the file is empty; give the whole file")
        return await self._changed(source if source.endswith("\n") else f"{source}\n", f"Written{remark}")

    async def replace(self, old: str, new: str) -> str:
        """Replaces what occurs exactly once."""
        if old == new:
            return self.wrong("replace", [old, new], "`old` and `new` are the same")
        try:
            changed = replace_once(self.source, old, new)
        except NoFit as error:
            return self.wrong("replace", [old, new], str(error))
        return await self._changed(changed, "Replaced")

    async def check(self) -> str:
        """Reads the working file's text."""
        return await self._told("check", [], self._check)

    async def compile(self, targets: Sequence[str] = ()) -> str:
        """Compiles the working file."""
        assert self._tools is not None
        names = tuple(dict.fromkeys(targets)) or (self.target,)
        if names == ("all",):
            names = self._tools.targets
        if unknown := [name for name in names if name not in self._tools.targets]:
            known = ", ".join(self._tools.targets)
            return self.wrong("compile", list(targets), f"no target {', '.join(unknown)}; targets: {known}")

        async def compiled() -> Report:
            return await self._compile(names)

        return await self._told("compile", sorted(names), compiled)

    async def interpret(self) -> str:
        """Runs the working file on scaled workloads."""
        return await self._told("interpret", [], self._interpret)

    async def look_up(self, query: str = "", path: str = "") -> str:
        """Searches what is known, or opens an article."""
        if bool(query.strip()) == bool(path.strip()):
            return self.wrong("look_up", [query, path], "give either `query` to search or `path` to open an article")
        if path:
            try:
                text = str(self._library.article(path.strip().partition("#")[0]).text)
            except UnknownName as error:
                return self.wrong("look_up", path, str(error))
            return _shortened(text, LONGEST_ARTICLE)
        hits = self._library.search(query, platform=self._platform, most=6)
        lines = [f"{hit.path}: {hit.heading}: {' '.join(hit.snippet.split())[:240]}" for hit in hits]
        return "\n".join([*lines, "Open one with path=."]) if lines else f"Nothing is known of {query!r:.80}."

    # -- the end --

    async def done(self, said: str) -> str:
        """What is still to be done before the file is the answer; empty where nothing is.

        What was not tried since the last change is tried now. A whole file in the answer is taken as if written.
        """
        told = ""
        found = parse_reply(said)
        if isinstance(found, Parsed) and found.source.strip() != self.source.strip():
            told = await self._changed(found.source, "Your answer has a file, which is now the working file") + "\n"
        if not self.source.strip():
            return f"{told}There is no file yet: write it with `write`."
        if name := self._same_as():
            return f"{told}The file is that of {name}, which the run has already: change it."
        for tool, run in (("check", self._check), ("compile", self._compile_target), ("interpret", self._interpret)):
            report = await run()
            if not report.ok:
                return f"{told}Not done: {tool} failed.\n{_shortened(report.text)}\nRepair the file."
        return ""

    async def best(self) -> tuple[str, str]:
        """The best version of the file, and what is known of it; an empty source where none may be the answer.

        The last that was interpreted, else the last that compiled, else the last; if it passes `check`.
        """
        versions = [source for source in reversed(self._versions.values()) if not self._same_as(source)]
        for source in versions:
            report = self._at(source).interpret
            if report is not None and report.ok:
                return source, "interpreted"
        for source in versions:
            if (report := self._at(source).compile.get(self.target)) is not None and report.ok:
                return source, "compiled, not interpreted"
        for source in versions[:1]:
            if (await self._check(source)).ok:
                return source, "neither compiled nor interpreted"
        return "", ""

    # -- inside --

    async def _changed(self, source: str, what: str) -> str:
        self.source = source
        key = digest_of(source)
        self._versions.pop(key, None)
        self._versions[key] = source
        self.changes += 1
        self._asked.clear()
        report = await self._check()
        if not report.ok:
            return f"{what}, {_lines(source)}. {_shortened(report.text)}\nRepair it first."
        return self._next(f"{what}, {_lines(source)}; {_shortened(report.text)}.")

    async def _told(self, tool: str, args: list[str], run: Callable[[], Awaitable[Report]]) -> str:
        if not self.source.strip():
            return self.wrong(tool, args, "there is no file yet: write it with `write`")
        asked = f"{tool} {args}"
        self._asked[asked] += 1
        if self._asked[asked] > 1:
            return self.wrong(tool, [args, self.source], "nothing has changed since this was last asked")
        report = await run()
        text = _shortened(report.text)
        return self._next(text) if report.ok else f"{text}\nRepair the file, then try again."

    def _next(self, said: str) -> str:
        """What was said, with what to do next."""
        found = self._at(self.source)
        compiled = found.compile.get(self.target)
        left = self.steps - self.taken
        few = f" {left} step{'s' * (left != 1)} left." if left <= _FEW else ""
        if self._tools is None:
            return f"{said}\nNext: answer with one sentence when it is as you want it.{few}"
        # An interpretation builds the file too, so it says all that is needed.
        if found.interpret is not None and found.interpret.ok:
            return f"{said}\n{_CLEAN}{few}"
        if found.interpret is not None:
            return f"{said}\nNext: repair what `interpret` said.{few}"
        if compiled is None:
            return f"{said}\nNext: `compile`.{few}"
        if not compiled.ok:
            return f"{said}\nNext: repair what `compile` said.{few}"
        return f"{said}\nNext: look at registers, spills and occupancy; then `interpret`.{few}"

    async def _check(self, source: str | None = None) -> Report:
        source = self.source if source is None else source
        found = self._at(source)
        if found.check is None:
            if self._tools is None:
                why = lacks(source)
                found.check = Report(not why, why or "it is Python and defines ModelNew")
            else:
                found.check = await self._tools.check(source)
        return found.check

    async def _compile_target(self) -> Report:
        return await self._compile((self.target,)) if self._tools is not None else Report(True, "")

    async def _compile(self, names: Sequence[str]) -> Report:
        assert self._tools is not None
        found = self._at(self.source)
        for name in names:
            if name not in found.compile:
                found.compile[name] = await self._tools.compile(self.source, (name,))
        reports = [found.compile[name] for name in names]
        return Report(all(report.ok for report in reports), "\n\n".join(report.text for report in reports))

    async def _interpret(self) -> Report:
        found = self._at(self.source)
        if self._tools is None:
            return Report(True, "")
        if found.interpret is None:
            found.interpret = await self._tools.interpret(self.source)
        return found.interpret

    def _at(self, source: str) -> Known:
        return self._found.setdefault(digest_of(source), Known())

    def _same_as(self, source: str | None = None) -> str:
        """The name of what has this source already; empty for nothing."""
        return self._known.get(digest_of(self.source if source is None else source), "")


def digest_of(source: str) -> str:
    """By which a source is known again, whatever blanks are around it."""
    return hashlib.sha256(source.strip().encode("utf-8", "surrogatepass")).hexdigest()


def _lines(source: str) -> str:
    return f"{len(source.splitlines())} lines"


def _shortened(text: str, most: int = LONGEST_RESULT) -> str:
    """The beginning and the end of a text that is too long."""
    if len(text) <= most:
        return text.rstrip()
    half = most // 2
    return f"{text[:half]}\n... ({len(text) - 2 * half} characters left out)\n{text[-half:].rstrip()}"
