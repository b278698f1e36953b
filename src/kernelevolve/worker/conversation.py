"""One conversation with the host, from inside a sealed child.

In: messages of `protocol`. Out: answers, or `fault` with the verdict that the candidate earned. Left to others: each
kind of work has its own file.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kernelevolve.wire import Channel, Message
from kernelevolve.worker.answers import ANSWERS  # by the parent: each child would compile these modules anew
from kernelevolve.worker.fault import Fault


def handle(channel: Channel) -> None:
    """Answers until the host hangs up."""
    state: dict[str, Any] = {}
    while True:
        message = channel.receive()
        answer: Callable[[dict[str, Any], Message, Channel], None] | None = ANSWERS.get(message.kind)
        try:
            if answer is None:
                channel.send("fault", {"verdict": "INFRA", "message": f"unknown question {message.kind!r}"})
            else:
                answer(state, message, channel)
        except Fault as fault:
            said = {"verdict": fault.verdict.value, "message": str(fault), "detail": fault.detail}
            channel.send("fault", {**said, "refused": fault.refused})
        finally:
            message.close()
