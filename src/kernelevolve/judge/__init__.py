"""The trusted side: problems' descriptions, the oracle, the acceptance rule, the baselines' times.

In: a channel to the host. Out: answers (see `answers`). Left to others: processes (`nursery`), candidates (`worker`),
verdicts over a whole evaluation (`evaluate`). A judge never imports or runs a candidate and never unpickles anything.
It does run problem files, which are foreign code too; that is why each conversation has a sealed child of its own.
"""

from __future__ import annotations

from kernelevolve.wire import Channel


def handle(channel: Channel) -> None:
    """Serves one conversation; raises `WireError` when the other side hangs up."""
    from kernelevolve.judge.answers import serve

    serve(channel)
