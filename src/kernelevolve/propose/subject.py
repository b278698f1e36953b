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
from kernelevolve.syntax import parse

MOST_OPERATIONS, MOST_WORDS, _LONGEST = 24, 40, 24
_OPERATION = re.compile(r"\b(?:torch|nn|F|functional|aten)\.(\w+)|\.(\w+)\(")
_OPERATORS = {ast.MatMult: "matmul", ast.Add: "add", ast.Sub: "sub", ast.Mult: "mul", ast.Div: "div", ast.Pow: "pow"}
_PLAIN = frozenset(re.findall(r"\w+", """
    Module Tensor Parameter size shape super __init__ append randn rand ones zeros empty view reshape unsqueeze
    squeeze float half to dim numel item
"""))  # fmt: skip
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+\d?[a-z]?|\d+[a-zA-Z]+")
#: Words that every reference's docstring has.
_EMPTY = frozenset(re.findall(r"\w+", """
    simple model that performs perform applies apply operation operations input output tensor tensors shape
    initializes initialize returns args forward pass torch bool optional default defaults dim size class given
    followed then using module layer level
"""))  # fmt: skip
#: What an op is about, the topics that decide structure first. An op may be about several.
_TOPICS: tuple[tuple[str, tuple[str, ...]], ...] = tuple(
    (pattern, tuple(topics.split()))
    for pattern, topics in (
        (r"scaled_dot_product\w*|multiheadattention|\w*attention", "attention matmul softmax"),
        (r"\w*depthwise\w*", "depthwise convolution matmul"),
        (r"\w*quanti[sz]\w*|int8\w*", "quantisation int8"),
        (r"f(?:p|loat)8\w*", "fp8"),
        (r"conv(?:olution|[123]d|transpose[123]d|_transpose[123]d)?", "convolution matmul"),
        (r"lstm\w*|gru\w*|rnn\w*", "recurrence rnn scan"),
        (r"_?(?:linear|mm|addmm|bmm|baddbmm|matmul|einsum|bilinear|int_mm|outer|ger|mv|dot)", "matmul"),
        (r"\w*(?:cumsum|cumprod|cummax|cummin|logcumsumexp)", "scan cumsum"),
        (r"hash\w*", "hashing integers"),
        (r"jagged\w*|ragged|offsets|segment\w*", "jagged"),
        (r"embedding\w*", "embedding gather recsys"),
        (r"gather|index|index_select|take\w*", "gather indexing"),
        (r"scatter\w*|index_add\w*|index_put\w*|segment_reduce", "scatter indexing"),
        (r"sort|argsort|topk|kthvalue", "topk sort"),
        (r"bucketize|searchsorted", "bucketize search hashing"),
        (r"histc|bincount|histogram\w*", "histogram"),
        (r"\w*pool\w*|unfold|im2col", "pooling windows"),
        (r"\w*(?:batch|group|instance)_?norm\w*", "normalisation channel-norm reductions"),
        (r"\w*(?:layer|rms)_?norm\w*", "normalisation reductions"),
        (r"_?(?:log_)?(?:log)?softmax\w*|softmin", "softmax reductions"),
        (r"logsumexp", "softmax reductions"),
        (r"\w*(?:cross_?entropy|nll_?loss|kl_?div|mse|huber|hinge|triplet|margin)\w*|\w+loss", "loss reductions"),
        (r"arg(?:max|min)", "argmax reductions"),
        (r"sum|mean|a?max|a?min|prod|std|var\w*|(?:linalg_)?(?:vector_)?norm|normalize|any|all", "reductions norm"),
        (r"permute|transpose|contiguous|clone|t", "transpose layout"),
        (
            r"\w*relu\d?_?|\w*gelu|silu|swish|\w*sigmoid|\w*tanh|mish|elu|selu|celu|soft(?:plus|sign|shrink)|clamp\w*|"
            r"add|sub|mul|div|exp|log|pow|sqrt|rsqrt|abs|where|dropout|lerp|sin|cos|neg|threshold",
            "elementwise",
        ),
    )
)
#: What is said of an op's shape of access only where nothing else decides.
_BESIDE = ("transpose", "layout", "elementwise")
#: What ops alone do not show, so that words of the name and the docstring count too.
_TOLD = frozenset((
    "attention", "depthwise", "quantisation", "fp8", "scan", "recurrence", "jagged", "hashing", "histogram",
    "normalisation", "loss",
))  # fmt: skip
#: What a precision is called in topics; a single product of narrow operands is written the same way for all of them.
_ARITHMETIC = {"fp16": ("fp16", "bf16"), "tf32": ("tf32", "bf16")}
_PRODUCTS = ("matmul", "convolution", "attention")
#: What an article may be about beside its subject, which makes it another kernel's.
_KINDS = ("backward", "quantisation", "fp8", "depthwise")


@dataclass(frozen=True)
class Subject:
    """What a problem is about.

    Attributes:
        words: of its name, its ops, its docstring, in this order.
        topics: of the library, what decides the structure first.
        others: kinds of problem that it is none of.
        unwanted: what a kernel for it does not do.
    """

    words: tuple[str, ...] = ()
    topics: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    unwanted: tuple[str, ...] = ()

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
    operations = (*traced, *(name for name in written if name not in traced))
    name = problem.name.rpartition("/")[2]
    called, told = _words(name), _words(f"{_docstrings(problem.source)} {problem.notes}")
    words = dict.fromkeys((*called, *(name.strip("_").lower() for name in operations), *told))
    topics = _topics(problem, (name, *operations, *called, *told), operations)
    others = tuple(dict.fromkeys(first for _, (first, *_) in _TOPICS if first not in (*topics, *_BESIDE)))
    unwanted = tuple(topic for topic in _KINDS if topic not in topics)
    return Subject(tuple(words)[:MOST_WORDS], topics, (*others, *unwanted), unwanted)


def operations_of(problem: Problem) -> tuple[str, ...]:
    """Names of what the reference's text calls, each once, in their order, then its operators: `@` is `matmul`."""
    model = next((n for n in parse(problem.source).body if isinstance(n, ast.ClassDef) and n.name == "Model"), None)
    source = (ast.get_source_segment(problem.source, model) if model is not None else "") or problem.source
    found = [match[1] or match[2] for match in _OPERATION.finditer(source)]
    forward = [n for n in getattr(model, "body", ()) if isinstance(n, ast.FunctionDef) and n.name == "forward"]
    operators = (type(n.op) for f in forward for n in ast.walk(f) if isinstance(n, (ast.BinOp, ast.AugAssign)))
    found += [_OPERATORS[one] for one in operators if one in _OPERATORS]
    return tuple(dict.fromkeys(name for name in found if name not in _PLAIN and not name.startswith("get_")))[
        :MOST_OPERATIONS
    ]


def _topics(problem: Problem, names: Iterable[str], operations: tuple[str, ...]) -> tuple[str, ...]:
    """Topics in the table's order, then what the rules of the problem add."""
    wanted = {name.strip("_").lower() for name in names}
    done = {name.strip("_").lower() for name in operations}
    found: dict[str, None] = {}
    for pattern, topics in _TOPICS:
        among = wanted if topics[0] in _TOLD else done
        if any(re.fullmatch(pattern, name) for name in among):
            found |= dict.fromkeys(topics)
    deciding = [topic for topic in found if topic not in _BESIDE]
    if (product := next((topic for topic in deciding if topic in _PRODUCTS), "")):
        # What a product may be computed in decides its kernel as much as that it is one.
        after = deciding.index(product) + 1
        allowed = problem.precision.partition("-")[0]
        deciding[after:after] = _ARITHMETIC.get(allowed, (allowed,))
        deciding += ["epilogue"] if "elementwise" in found else []
    if problem.direction != "forward":
        deciding = ["backward", *deciding]
    raw = [name for name in (one.lower() for one in operations) if name not in found]
    return (*(deciding or found), *raw)


def _words(text: str) -> tuple[str, ...]:
    """The words of a text, each once and in lower case: `GroupNorm` is `groupnorm`, `group` and `norm`."""
    whole = re.findall(r"[^\W_]+", text)
    found = (part.lower() for word in whole for part in (word, *_WORD.findall(word)) if len(word) <= _LONGEST)
    return tuple(dict.fromkeys(word for word in found if len(word) > 1 and not word.isdigit() and word not in _EMPTY))


def _docstrings(source: str) -> str:
    """What the file and its class `Model` say of themselves, first paragraphs only."""
    tree = parse(source)
    nodes = [tree, *(n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == "Model")]
    texts = (ast.get_docstring(node) or "" for node in nodes if isinstance(node, (ast.Module, ast.ClassDef)))
    return " ".join(text.partition("\n\n")[0] for text in texts)
