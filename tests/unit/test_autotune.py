"""An autotuned kernel's configurations are read from the text as a knob, and the tuned file states the chosen one."""

from __future__ import annotations

import ast

import pytest

from kernelevolve.candidate import KnobsError, read_autotuned, read_knobs
from kernelevolve.evaluate.check import check_source
from kernelevolve.evaluate.tune import chooses_configs, tuned

TWO = "[triton.Config({'B': 32}, num_warps=4), triton.Config({'B': 64}, num_warps=8, num_stages=3)]"


def file(decorators: str, before: str = "") -> str:
    """A candidate whose kernel `k` has these decorators."""
    return (
        f"import torch\nimport triton\nimport triton.language as tl\n{before}\n\n{decorators}\n"
        "def k(x, B: tl.constexpr):\n    pass\n\n\nclass ModelNew(torch.nn.Module):\n    pass\n"
    )


AUTOTUNE = f"@triton.autotune(configs={TWO}, key=['n'])"
HEURISTICS = "@triton.heuristics({'EVEN': lambda a: a['n'] % a['B'] == 0})"
READ = {
    "keyword": file(f"{AUTOTUNE}\n@triton.jit"),
    "positional": file(f"@triton.autotune({TWO}, ['n'])\n@triton.jit"),
    "heuristics beneath": file(f"{AUTOTUNE}\n{HEURISTICS}\n@triton.jit"),
    "heuristics above": file(f"{HEURISTICS}\n{AUTOTUNE}\n@triton.jit"),
    "imported names": file(
        f"@autotune(configs={TWO.replace('triton.', '')}, key=[])\n@jit", "from triton import Config, autotune, jit"
    ),
    "names of its own": file(
        f"@tune(configs={TWO.replace('triton.Config', 'Cfg')}, key=[])\n@triton.jit",
        "from triton import Config as Cfg\nfrom triton import autotune as tune",
    ),
    "triton by another name": file(f"@tr.autotune(configs={TWO}, key=[])\n@tr.jit".replace("triton.C", "tr.C")),
    "by name": file("@triton.autotune(configs=CONFIGS, key=['n'])\n@triton.jit", f"CONFIGS = {TWO}"),
    "by annotated name": file("@triton.autotune(CONFIGS, key=['n'])\n@triton.jit", f"CONFIGS: list = {TWO}"),
    "over lines, after words of other alphabets": file(
        f"@triton.autotune(key=['é'], configs={TWO.replace(', triton', ',  # größer' + chr(10) + '    triton')},\n"
        "    reset_to_zero=['x'])\n@triton.jit"
    ),
    "in brackets": file(f"@triton.autotune(\n    configs=(\n        {TWO}\n    ),\n    key=['n'],\n)\n@triton.jit"),
    "with a hook": file(f"{AUTOTUNE}\n@triton.jit".replace("num_warps=4", "pre_hook=lambda a: a['x'].zero_()")),
}
UNREAD = {
    "comprehension": file("@triton.autotune(configs=[triton.Config({'B': b}) for b in (1, 2)], key=[])\n@triton.jit"),
    "function": file("@triton.autotune(configs=configs(), key=[])\n@triton.jit"),
    "starred": file(f"@triton.autotune(configs=[*{TWO}], key=[])\n@triton.jit"),
    "made by another call": file("@triton.autotune(configs=[made(1), made(2)], key=[])\n@triton.jit"),
    "added to": file("@triton.autotune(CONFIGS, key=[])\n@triton.jit", f"CONFIGS = {TWO}\nCONFIGS.append(CONFIGS[0])"),
    "assigned twice": file("@triton.autotune(CONFIGS, key=[])\n@triton.jit", f"CONFIGS = {TWO}\nCONFIGS = {TWO}"),
    "imported": file("@triton.autotune(CONFIGS, key=[])\n@triton.jit", "from math import e as CONFIGS"),
    "part of a list": file("@triton.autotune(CONFIGS[:2], key=[])\n@triton.jit", f"CONFIGS = {TWO}"),
    "twice": file(f"{AUTOTUNE}\n{AUTOTUNE}\n@triton.jit"),
    "no configs": file("@triton.autotune(**SETTINGS)\n@triton.jit"),
}


@pytest.mark.parametrize("source", READ.values(), ids=READ)
def test_each_spelling_is_a_knob_and_is_cut_to_the_chosen_configuration(source: str) -> None:
    assert read_knobs(source).values == {"k_config": (0, 1)}
    assert read_knobs(source).defaults("nvidia") == {"k_config": 0}
    assert check_source(source).hints == ()
    text = tuned(source, {"k_config": 1})
    (one,) = read_autotuned(text)
    assert one.count == 1 and one.configs is not None
    assert ast.unparse(one.configs).endswith("[1:2]")
    assert text.replace("[1:2]", "") == source  # nothing else is touched
    assert not read_knobs(text).values and check_source(text).hints == () and not chooses_configs(text)
    assert tuned(text, {}) == text


@pytest.mark.parametrize("source", UNREAD.values(), ids=UNREAD)
def test_what_the_text_does_not_tell_is_no_knob_and_is_said(source: str) -> None:
    assert read_knobs(source).values == {}
    assert (
        "autotune of k: its configs are no literal list, so none but the first was tried" in check_source(source).hints
    )
    assert tuned(source, {"k_config": 1}) == source


def test_one_configuration_is_no_knob_and_needs_no_word() -> None:
    source = file("@triton.autotune(configs=[triton.Config({'B': 32})], key=[])\n@triton.jit")
    assert (read_knobs(source).values, check_source(source).hints) == ({}, ())


def test_kernels_that_share_a_list_are_cut_each_to_its_own() -> None:
    shared = file("@triton.autotune(CONFIGS, key=[])\n@triton.jit", f"CONFIGS = {TWO}")
    source = shared + "\n\n@triton.autotune(configs=CONFIGS, key=[])\n@triton.jit\ndef other(x):\n    pass\n"
    assert read_knobs(source).values == {"k_config": (0, 1), "other_config": (0, 1)}
    text = tuned(source, {"k_config": 1, "other_config": 0})
    assert "autotune(CONFIGS[1:2], key" in text and "configs=CONFIGS[0:1], key" in text
    assert [one.count for one in read_autotuned(text)] == [1, 1]


def test_knobs_beside_an_autotuned_kernel_keep_their_literal_and_their_vendors() -> None:
    knobs = "KNOBS = {'S': [1, 2], 'amd': {'waves_per_eu': [0, 2]}}\nCHOICE = {}"
    source = file(f"{AUTOTUNE}\n@triton.jit", knobs)
    assert read_knobs(source).for_vendor("nvidia") == {"S": (1, 2), "k_config": (0, 1)}
    assert read_knobs(source).for_vendor("amd") == {"S": (1, 2), "k_config": (0, 1), "waves_per_eu": (0, 2)}
    text = tuned(source, {"S": 2, "k_config": 1})
    assert "\nCHOICE = {'S': 2}\n" in text and f"configs={TWO}[1:2], key" in text


@pytest.mark.parametrize("knobs", ["{'k_config': [5, 6]}", "{'amd': {'k_config': [5, 6]}}"])
def test_a_knob_of_the_same_name_is_refused(knobs: str) -> None:
    with pytest.raises(KnobsError, match="k_config"):
        read_knobs(file(f"{AUTOTUNE}\n@triton.jit", f"KNOBS = {knobs}"))
