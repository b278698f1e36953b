"""Subject: what a problem is about, in words and in the library's topics.

In: a problem, and where the log has it the ATen ops of its captured reference. Out: a `Subject`. Left to others: what
the library has on it (`knowledge.retrieve`), what limits a candidate (`diagnose`).

The reference's name and docstring say what it is, its ops what it does. Ops come from the capture, since a module such
as `nn.MultiheadAttention` is one name in the text; where nothing was captured, from the text. Topics stand in the order
in which they decide a kernel's structure: a product before a normalisation before what is done element by element.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from dataclasses import dataclass

from kernelevolve.events import Event, Noted
from kernelevolve.family import TOPIC
from kernelevolve.graph import Graph
from kernelevolve.problem import Problem

MOST_OPERATIONS, MOST_WORDS = 24, 40
_OPERATION = re.compile(r"\b(?:torch|nn|F|functional|aten)\.(\w+)|\.(\w+)\(")
_PLAIN = frozenset(
    "Module Tensor Parameter size shape super __init__ append randn rand ones zeros empty view reshape unsqueeze "
    "squeeze float half to dim numel item".split()
)
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+\d?[a-z]?|\d+[a-zA-Z]+")
#: Words that every reference's docstring has.
_EMPTY = frozenset(
    "simple model that performs perform applies apply operation operations input output tensor tensors shape "
    "initializes initialize returns args forward pass torch bool optional default defaults dim size class given "
    "followed then using module layer level".split()
)
#: What an op is about, the topics that decide structure first. An op may be about several.
_TOPICS: tuple[tuple[str, tuple[str, ...]], ...] = tuple(
    (pattern, tuple(topics.split()))
    for pattern, topics in (
        (r"scaled_dot_product\w*|multiheadattention|\w*attention", "attention"),
        (r"conv(?:olution|[123]d|transpose[123]d|_transpose[123]d)?", "convolution"),
        (r"_?(?:linear|mm|addmm|bmm|baddbmm|matmul|einsum|bilinear|int_mm|outer|ger|mv|dot)", "matmul"),
        (r"\w*(?:cumsum|cumprod|cummax|cummin|logcumsumexp)", "scan cumsum"),
        (r"lstm\w*|gru\w*|rnn\w*", "recurrence rnn"),
        (r"embedding\w*", "embedding gather recsys"),
        (r"gather|index|index_select|take\w*", "gather indexing"),
        (r"scatter\w*|index_add\w*|index_put\w*|segment_reduce", "scatter indexing"),
        (r"sort|argsort|topk|kthvalue", "topk sort"),
        (r"bucketize|searchsorted", "bucketize search"),
        (r"histc|bincount|histogram\w*", "histogram"),
        (r"bitwise\w*|remainder|__\w*shift__", "integers hashing"),
        (r"\w*pool\w*|unfold|im2col", "pooling windows"),
        (r"\w*(?:batch|group|instance)_?norm\w*", "normalisation channel-norm"),
        (r"\w*(?:layer|rms)_?norm\w*", "normalisation layernorm"),
        (r"_?(?:log_)?(?:log)?softmax\w*|softmin", "softmax"),
        (r"logsumexp", "softmax reductions"),
        (r"\w*(?:cross_?entropy|nll|kl_?div|mse|l1|huber|hinge|triplet|margin)\w*(?:loss)?|\w+loss", "loss reductions"),
        (r"arg(?:max|min)", "argmax reductions"),
        (r"sum|mean|a?max|a?min|prod|std|var\w*|(?:linalg_)?(?:vector_)?norm|normalize|any|all", "reductions norm"),
        (r"permute|transpose|contiguous|clone|t", "transpose layout"),
        (
            r"\w*relu\d?_?|\w*gelu|silu|swish|\w*sigmoid|\w*tanh|mish|elu|selu|celu|soft(?:plus|sign|shrink)|clamp\w*|"
            r"add|sub|mul|div|exp|log|pow|sqrt|rsqrt|abs|where|dropout|lerp|sin|cos|neg|threshold",
            "elementwise pointwise",
        ),
    )
)
#: What is said of an op's shape of access only where nothing else decides.
_BESIDE = ("transpose", "layout", "elementwise", "pointwise")
_PRODUCTS = ("matmul", "convolution", "attention")


@dataclass(frozen=True)
class Subject:
    """What a problem is about.

    Attributes:
        words: of its name, its ops, its docstring, in this order.
        topics: of the library, what decides the structure first.
    """

    words: tuple[str, ...] = ()
    topics: tuple[str, ...] = ()

    @property
    def query(self) -> str:
        """The words as a text to look up."""
        return " ".join(self.words)


class TracedReducer:
    """Folds the ATen ops of the captured reference, which a run's log has from its beginning."""

    name = "propose.traced"

    def start(self) -> list[str]:
        return []

    def fold(self, state: list[str], event: Event, graph: Graph) -> list[str]:
        return sorted(event.data.get("ops", ())) if isinstance(event, Noted) and event.topic == TOPIC else state

    def save(self, state: list[str], graph: Graph) -> list[str]:
        """See `Restorable.save`."""
        return list(state)

    def restore(self, data: list[str], graph: Graph) -> list[str]:
        """See `Restorable.restore`."""
        return [str(name) for name in data]


def subject_of(problem: Problem, traced: Iterable[str] = ()) -> Subject:
    """What a problem is about.

    Args:
        traced: ATen ops of the captured reference, without overloads; empty where it was not captured.
    """
    written = operations_of(problem)
    operations = tuple(traced) or written
    said = f"{problem.name.rpartition('/')[2]} {problem.notes}"
    told = _words(_docstrings(problem.source))
    words = dict.fromkeys((*_words(said), *(name.strip("_").lower() for name in (*operations, *written)), *told))
    return Subject(tuple(words)[:MOST_WORDS], _topics(problem, (*operations, *_words(said), *told), operations))


def operations_of(problem: Problem) -> tuple[str, ...]:
    """Names of what the reference's text calls, each once, in their order; `@` is `matmul`."""
    source = _model(problem.source)
    found = [match[1] or match[2] for match in _OPERATION.finditer(source)]
    found += ["matmul"] if re.search(r"^(?!\s*@).*\s@\s", source, re.MULTILINE) else []
    return tuple(dict.fromkeys(name for name in found if name not in _PLAIN and not name.startswith("get_")))[
        :MOST_OPERATIONS
    ]


def _topics(problem: Problem, names: Iterable[str], operations: tuple[str, ...]) -> tuple[str, ...]:
    """Topics in the table's order, then what the rules of the problem add."""
    wanted = {name.strip("_").lower() for name in names}
    done = {name.strip("_").lower() for name in operations}
    found: dict[str, None] = {}
    for pattern, topics in _TOPICS:
        # Words of a name or docstring tell the kind of a problem; what is everywhere counts only where it is done.
        among = done if topics[0] in (*_BESIDE, "reductions", "gather", "scatter") else wanted
        if any(re.fullmatch(pattern, name) for name in among):
            found |= dict.fromkeys(topics)
    deciding = [topic for topic in found if topic not in _BESIDE]
    if any(topic in _PRODUCTS for topic in deciding):
        deciding += [problem.precision.partition("-")[0]] + (["epilogue"] if "elementwise" in found else [])
    if problem.direction != "forward":
        deciding = ["backward", *deciding]
    raw = [name for name in (one.lower() for one in operations) if name not in found]
    return (*(deciding or found), *raw)


def _words(text: str) -> tuple[str, ...]:
    """The words of a text, `ConvTranspose2d_BiasAdd` taken apart, each once and in lower case."""
    found = (match.lower() for match in _WORD.findall(text))
    return tuple(dict.fromkeys(word for word in found if len(word) > 1 and word not in _EMPTY))


def _model(source: str) -> str:
    """The text of class `Model`, or all of it where there is none."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef) and node.name == "Model":
            return ast.get_source_segment(source, node) or source
    return source


def _docstrings(source: str) -> str:
    """What the file and its class `Model` say of themselves, first paragraphs only."""
    tree = ast.parse(source)
    nodes = [tree, *(n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == "Model")]
    texts = (ast.get_docstring(node) or "" for node in nodes if isinstance(node, (ast.Module, ast.ClassDef)))
    return " ".join(text.partition("\n\n")[0] for text in texts)
