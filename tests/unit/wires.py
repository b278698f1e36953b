"""A server on loopback: it speaks the wires of OpenAI and Anthropic, misbehaves on request, counts what it charges.

A process of its own, so that a test talks to it over real connections with the providers' own packages:

    with serve() as wire:
        wire.plan(queue=["429:0.2", "cut"])       # what the next calls meet, then good answers
        wire.plan(share=0.2, seed=1)              # or: this share of all calls meets one of `kinds`
        ...
        wire.charged()                            # calls and tokens, as a provider's bill would have them

Each answer is `answer N` for a prompt that has `job N`. A call is charged when it was answered in full; on Anthropic's
wire also when the answer broke off after its beginning had reported the tokens read.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import re
import subprocess
import sys
import urllib.request
from pathlib import Path

KINDS = ("429:0", "500", "503", "529", "cut", "malformed", "close", "stall")
READ, WRITTEN = 120, 40


class Wire:
    """What a test holds of the server."""

    def __init__(self, port):
        self.root = f"http://127.0.0.1:{port}"
        self.openai = f"{self.root}/v1"

    def plan(self, **plan):
        self._call("/control", plan)

    def charged(self):
        return self._call("/charged")

    def _call(self, path, body=None):
        data = json.dumps(body).encode() if body is not None else None
        with urllib.request.urlopen(urllib.request.Request(self.root + path, data), timeout=10) as answer:
            return json.loads(answer.read())


@contextlib.contextmanager
def serve():
    process = subprocess.Popen([sys.executable, __file__], stdout=subprocess.PIPE, cwd=Path(__file__).parent)
    try:
        yield Wire(int(process.stdout.readline()))
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


class Server:
    def __init__(self):
        self.fresh({})
        self.bill = {"calls": 0, "tokens_in": 0, "tokens_out": 0, "answered": 0, "asked": 0, "met": {}}

    def fresh(self, plan):
        self.queue = list(plan.get("queue", ()))
        self.share, self.kinds = plan.get("share", 0.0), plan.get("kinds", KINDS)
        self.luck = random.Random(plan.get("seed", 0))
        self.key, self.usage = plan.get("key"), plan.get("usage", "end")
        self.tokens = plan.get("tokens", [READ, WRITTEN])
        self.models = plan.get("models", ["served-model", "other-model"])
        self.delay, self.text = plan.get("delay", 0.0), plan.get("text")
        if plan.get("reset", True):
            self.bill = {"calls": 0, "tokens_in": 0, "tokens_out": 0, "answered": 0, "asked": 0, "met": {}}
            self.seen = []

    def charge(self, read, written, answered=True):
        self.bill["calls"] += 1
        self.bill["tokens_in"] += read
        self.bill["tokens_out"] += written
        self.bill["answered"] += answered

    def meets(self):
        if self.queue:
            return self.queue.pop(0)
        return self.luck.choice(self.kinds) if self.luck.random() < self.share else ""

    async def talk(self, reader, writer):
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while await self.one(reader, writer):
                pass
        writer.close()

    async def one(self, reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines if line)}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        verb, path, _ = first.split(" ")
        out = Out(writer)
        if path == "/control":
            self.fresh(json.loads(body))
            return await out.whole(200, {})
        if path == "/charged":
            return await out.whole(200, {**self.bill, "seen": self.seen})
        wire = _wire_of(path, headers)(self, out)
        key = next((headers[name] for name in ("x-api-key", "x-goog-api-key") if name in headers), None)
        key = key or headers.get("authorization", "").removeprefix("Bearer ")
        if self.key is not None and key != self.key:
            return await wire.error(401, "invalid_api_key", f"Incorrect API key provided: {key}")
        if verb == "GET":
            listed = path.partition("?")[0] in ("/v1/models", "/v1beta/models")
            return await out.whole(200, wire.list(self.models)) if listed else await out.whole(404, b"no such page")
        asked = json.loads(body)
        if path.startswith(("/v1beta/", "/model/")):
            asked["stream"] = "tream" in path  # which these wires say in the path
        return await wire.answer(asked)


def _wire_of(path, headers):
    if path.startswith("/v1beta/"):
        return GoogleWire
    if path.startswith("/model/"):
        return BedrockWire
    if path == "/v1/responses":
        return ResponsesWire
    return AnthropicWire if "x-api-key" in headers or path == "/v1/messages" else ChatWire


class Out:
    """One response, as whole or in chunks."""

    def __init__(self, writer):
        self.writer, self.begun = writer, False

    async def whole(self, status, data, headers=(), kind="application/json", cut=False):
        body = data if isinstance(data, bytes) else json.dumps(data).encode()
        lines = [f"HTTP/1.1 {status} X", f"content-type: {kind}", f"content-length: {len(body)}", *headers]
        self.writer.write("\r\n".join((*lines, "", "")).encode() + (body[: len(body) // 2] if cut else body))
        await self.writer.drain()
        return not cut

    async def chunk(self, text):
        if not self.begun:
            self.begun = True
            head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
            self.writer.write(head)
        data = text.encode()
        self.writer.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        await self.writer.drain()

    async def end(self):
        self.writer.write(b"0\r\n\r\n")
        await self.writer.drain()
        return True


class AnyWire:
    def __init__(self, server, out):
        self.server, self.out = server, out

    async def answer(self, asked):
        server = self.server
        server.bill["asked"] += 1
        met, _, argument = server.meets().partition(":")
        server.bill["met"][met] = server.bill["met"].get(met, 0) + 1
        await asyncio.sleep(server.delay)
        job = re.findall(r"job (\d+)", json.dumps(asked))
        text = server.text or f"answer {job[-1] if job else 0}"
        if len(server.seen) < 50:
            server.seen.append(asked)
        if met.isdigit():
            headers = (f"retry-after: {argument}",) if argument else ()
            if met in ("400", "404"):
                return await self.error(int(met), *self.rejection(argument))
            return await self.error(int(met), "rate_limit_error" if met == "429" else "api_error", "no luck", headers)
        if met == "close":
            return False
        if met == "html":
            return await self.out.whole(200, b"<html>gateway</html>", kind="text/html")
        if met == "odd":
            return await self.odd(argument, bool(asked.get("stream")))
        how = {"refuse": "refusal", "length": "length", "empty": "empty"}.get(met, "")
        tool = asked["tools"][0] if asked.get("tools") and met == "tool" else None
        if asked.get("stream"):
            return await self.streamed(asked, "" if how == "empty" else text, met, how, tool)
        return await self.at_once(asked, "" if how == "empty" else text, met, how, tool)

    async def odd(self, body, stream):
        """JSON of the wrong shape, in the form that was asked for."""
        if not stream:
            return await self.out.whole(200, body.encode())
        await self.out.chunk(f"event: message_start\ndata: {body}\n\n")
        await self.out.chunk(f"data: {body}\n\n")
        return await self.out.end()

    async def stall(self):
        await asyncio.sleep(60)
        return False

    def rejection(self, argument):
        return {
            "overflow": ("context_length_exceeded", "This model's maximum context length is 100 tokens."),
            "model": ("model_not_found", "The model does not exist"),
        }.get(argument, ("invalid_request_error", "unsupported parameter"))


class ChatWire(AnyWire):
    """OpenAI's chat completions, as most servers speak them."""

    def list(self, models):
        return {"object": "list", "data": [{"id": m, "object": "model", "created": 1, "owned_by": "x"} for m in models]}

    async def error(self, status, code, message, headers=()):
        return await self.out.whole(status, {"error": {"message": message, "type": code, "code": code}}, headers)

    def usage(self):
        read, written = self.server.tokens
        return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}

    def tool_call(self, tool):
        function = {"name": tool["function"]["name"], "arguments": json.dumps({"source": "x = 1"})}
        return {"index": 0, "id": "call-1", "type": "function", "function": function}

    async def at_once(self, asked, text, met, how, tool):
        if met == "stall":
            return await self.stall()
        message = {"role": "assistant", "content": text}
        if tool:
            message["tool_calls"] = [self.tool_call(tool)]
        reason = {"refusal": "content_filter", "length": "length"}.get(how, "tool_calls" if tool else "stop")
        data = {
            "id": "c", "object": "chat.completion", "created": 1, "model": asked["model"],
            "choices": [{"index": 0, "message": message, "finish_reason": reason}],
        }  # fmt: skip
        if self.server.usage != "none":
            data["usage"] = self.usage()
        if met == "malformed":
            return await self.out.whole(200, json.dumps(data).encode()[:-20])
        if met != "cut":
            self.server.charge(*self.server.tokens)
        return await self.out.whole(200, data, cut=met == "cut")

    async def streamed(self, asked, text, met, how, tool):
        async def say(delta=None, reason=None, usage=None):
            chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": asked["model"]}
            chunk["choices"] = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": reason}]
            chunk["usage"] = usage
            await self.out.chunk(f"data: {json.dumps(chunk)}\n\n")

        await say({"role": "assistant", "content": ""})
        half = len(text) // 2
        await say({"content": text[:half]})
        if met == "stall":
            return await self.stall()
        if met == "cut":
            return False
        if met == "early":  # the connection ends well, the answer does not
            return await self.out.end()
        if met == "malformed":
            await self.out.chunk('data: {"id": "c", "choices": [{"ind\n\n')
            return await self.out.end()
        if met == "inside":
            error = {"error": {"message": "overloaded", "type": "server_error", "code": "server_error"}}
            await self.out.chunk(f"data: {json.dumps(error)}\n\n")
            return await self.out.end()
        await say({"content": text[half:]})
        if tool:
            await say({"tool_calls": [self.tool_call(tool)]})
        await say({}, {"refusal": "content_filter", "length": "length"}.get(how, "tool_calls" if tool else "stop"))
        if self.server.usage != "none":
            await say(usage=self.usage())
        self.server.charge(*self.server.tokens)
        await self.out.chunk("data: [DONE]\n\n")
        return await self.out.end()


class ResponsesWire(ChatWire):
    """OpenAI's responses: a text, streamed or not; tool calls are left to the other wires."""

    def response(self, asked, text, how, done):
        read, written = self.server.tokens
        item = {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed"}
        item["content"] = [{"type": "output_text", "text": text, "annotations": []}]
        status = "incomplete" if how == "length" else "completed"
        usage = {"input_tokens": read, "output_tokens": written, "total_tokens": read + written}
        usage |= {"input_tokens_details": {"cached_tokens": 0}, "output_tokens_details": {"reasoning_tokens": 0}}
        return {
            "id": "resp_1", "object": "response", "created_at": 1, "model": asked["model"], "parallel_tool_calls": True,
            "tool_choice": "auto", "tools": [], "status": status if done else "in_progress", "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if how == "length" and done else None,
            "output": [item] if done and text else [], "usage": usage if done else None,
        }  # fmt: skip

    async def at_once(self, asked, text, met, how, tool):
        if met == "stall":
            return await self.stall()
        data = self.response(asked, text, how, True)
        if met == "malformed":
            return await self.out.whole(200, json.dumps(data).encode()[:-20])
        if met != "cut":
            self.server.charge(*self.server.tokens)
        return await self.out.whole(200, data, cut=met == "cut")

    async def streamed(self, asked, text, met, how, tool):
        number = 0

        async def say(kind, **data):
            nonlocal number
            event = {"type": kind, "sequence_number": number, **data}
            number += 1
            await self.out.chunk(f"event: {kind}\ndata: {json.dumps(event)}\n\n")

        place = {"output_index": 0, "item_id": "msg_1", "content_index": 0}
        await say("response.created", response=self.response(asked, text, how, False))
        item = {"id": "msg_1", "type": "message", "role": "assistant", "status": "in_progress", "content": []}
        await say("response.output_item.added", output_index=0, item=item)
        part = {"type": "output_text", "text": "", "annotations": []}
        await say("response.content_part.added", **place, part=part)
        half = len(text) // 2
        await say("response.output_text.delta", **place, delta=text[:half], logprobs=[])
        if met == "stall":
            return await self.stall()
        if met == "cut":
            return False
        if met == "early":
            return await self.out.end()
        if met == "malformed":
            await self.out.chunk('event: response.output_text.delta\ndata: {"type": "respon\n\n')
            return await self.out.end()
        await say("response.output_text.delta", **place, delta=text[half:], logprobs=[])
        await say("response.output_text.done", **place, text=text, logprobs=[])
        self.server.charge(*self.server.tokens)
        ending = "response.incomplete" if how == "length" else "response.completed"
        await say(ending, response=self.response(asked, text, how, True))
        return await self.out.end()


class AnthropicWire(AnyWire):
    def list(self, models):
        data = [{"id": m, "type": "model", "display_name": m, "created_at": "2026-01-01T00:00:00Z"} for m in models]
        return {"data": data, "has_more": False, "first_id": None, "last_id": None}

    async def error(self, status, code, message, headers=()):
        kind = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error", 529: "overloaded_error",
                400: "invalid_request_error"}.get(status, "api_error")  # fmt: skip
        message = "prompt is too long: 200 tokens > 100 maximum" if code == "context_length_exceeded" else message
        return await self.out.whole(status, {"type": "error", "error": {"type": kind, "message": message}}, headers)

    def message(self, asked, content, reason, usage):
        return {
            "id": "msg_1", "type": "message", "role": "assistant", "model": asked["model"], "content": content,
            "stop_reason": reason, "stop_sequence": None, "usage": usage,
        }  # fmt: skip

    def reason(self, how, tool):
        return {"refusal": "refusal", "length": "max_tokens"}.get(how, "tool_use" if tool else "end_turn")

    async def at_once(self, asked, text, met, how, tool):
        if met == "stall":
            return await self.stall()
        read, written = self.server.tokens
        content = [{"type": "text", "text": text}] if text else []
        if tool:
            content.append({"type": "tool_use", "id": "toolu_1", "name": tool["name"], "input": {"source": "x = 1"}})
        usage = {"input_tokens": read, "output_tokens": written}
        data = self.message(asked, content, self.reason(how, tool), usage)
        if met == "malformed":
            return await self.out.whole(200, json.dumps(data).encode()[:-20])
        if met != "cut":
            self.server.charge(read, written)
        return await self.out.whole(200, data, cut=met == "cut")

    async def streamed(self, asked, text, met, how, tool):
        async def say(kind, **data):
            await self.out.chunk(f"event: {kind}\ndata: {json.dumps({'type': kind, **data})}\n\n")

        async def block(index, start, delta):
            await say("content_block_start", index=index, content_block=start)
            await say("content_block_delta", index=index, delta=delta)

        read, written = self.server.tokens
        usage = {"input_tokens": read, "output_tokens": 1}
        await say("message_start", message=self.message(asked, [], None, usage))
        await say("ping")
        half = len(text) // 2
        if text:
            await block(0, {"type": "text", "text": ""}, {"type": "text_delta", "text": text[:half]})
        if met in ("stall", "cut", "malformed", "early", "inside"):
            self.server.charge(read, 1, answered=False)
            if met == "stall":
                return await self.stall()
            if met == "cut":
                return False
            if met == "malformed":
                await self.out.chunk('event: content_block_delta\ndata: {"type": "content_block_de\n\n')
            if met == "inside":
                await say("error", error={"type": "overloaded_error", "message": "Overloaded"})
            return await self.out.end()
        if text:
            await say("content_block_delta", index=0, delta={"type": "text_delta", "text": text[half:]})
            await say("content_block_stop", index=0)
        if tool:
            start = {"type": "tool_use", "id": "toolu_1", "name": tool["name"], "input": {}}
            await block(1, start, {"type": "input_json_delta", "partial_json": json.dumps({"source": "x = 1"})})
            await say("content_block_stop", index=1)
        delta = {"stop_reason": self.reason(how, tool), "stop_sequence": None}
        await say("message_delta", delta=delta, usage={"output_tokens": written})
        self.server.charge(read, written)
        await say("message_stop")
        return await self.out.end()


class GoogleWire(AnyWire):
    """Gemini's errors, lists and texts."""

    def list(self, models):
        return {"models": [{"name": f"models/{m}"} for m in models]}

    async def error(self, status, code, message, headers=()):
        named = {401: "UNAUTHENTICATED", 404: "NOT_FOUND", 429: "RESOURCE_EXHAUSTED", 400: "INVALID_ARGUMENT"}
        told = {"code": status, "message": message, "status": named.get(status, "INTERNAL")}
        return await self.out.whole(status, {"error": told}, headers)

    def content(self, text, ended):
        candidate = {"content": {"parts": [{"text": text}], "role": "model"}, "index": 0}
        if ended:
            candidate["finishReason"] = "STOP"
        read, written = self.server.tokens
        usage = {"promptTokenCount": read, "candidatesTokenCount": written, "totalTokenCount": read + written}
        return {"candidates": [candidate], "modelVersion": "m", **({"usageMetadata": usage} if ended else {})}

    async def at_once(self, asked, text, met, how, tool):
        self.server.charge(*self.server.tokens)
        return await self.out.whole(200, self.content(text, True))

    async def streamed(self, asked, text, met, how, tool):
        half = len(text) // 2
        await self.out.chunk(f"data: {json.dumps(self.content(text[:half], False))}\r\n\r\n")
        if met == "cut":
            return False
        if met == "early":
            return await self.out.end()
        self.server.charge(*self.server.tokens)
        await self.out.chunk(f"data: {json.dumps(self.content(text[half:], True))}\r\n\r\n")
        return await self.out.end()


class BedrockWire(GoogleWire):
    """Bedrock's errors, and texts that are not streamed."""

    def content(self, text, ended):
        read, written = self.server.tokens
        usage = {"inputTokens": read, "outputTokens": written, "totalTokens": read + written}
        message = {"role": "assistant", "content": [{"text": text}]}
        return {"output": {"message": message}, "stopReason": "end_turn", "usage": usage, "metrics": {"latencyMs": 1}}

    async def error(self, status, code, message, headers=()):
        named = {401: "UnrecognizedClientException", 404: "ResourceNotFoundException", 429: "ThrottlingException",
                 400: "ValidationException"}.get(status, "InternalServerException")  # fmt: skip
        return await self.out.whole(status, {"message": message}, (f"x-amzn-errortype: {named}", *headers))


async def main():
    server = await asyncio.start_server(Server().talk, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
