"""A stand-in for vLLM's OpenAI server: the routes that lorad uses, with vLLM's answers, and faults on purpose.

What it says comes from a function. As a script it takes vLLM's own command line and says what a file has for a prompt.
"""

import argparse
import asyncio
import contextlib
import json
import os
import socket
import sys
import threading
import time
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse, PlainTextResponse, StreamingResponse
from starlette.routing import Route

RAW = {
    "garbage": b"data: {not json\n\n",
    "no_event": b"<html>a proxy's page</html>\n",
    "endless_line": b"data: " + b"x" * 1_200_000,
    "done": b"data: [DONE]\n\n",
    "error": b'data: {"error": {"message": "EngineCore died", "code": 500}}\n\n',
}
"""What stands in a stream instead of an event."""


class StandIn:
    """Answers with ``say(adapter's path or None, prompt, most tokens, end tokens)``."""

    def __init__(self, say, name="the-base", *, updates=True):
        self.say, self.name = say, name
        self.adapters = {}
        self.asked = []
        """The bodies of the completions that came."""
        self.calls = []
        """Loads and unloads, in their order."""
        self.faults = {"stream": [], "whole": [], "load": [], "models": []}
        """What goes wrong the next times, of each kind; an empty word is nothing."""
        self.gate = threading.Event()
        """Opens streams with the fault ``hold``."""
        self.holding = threading.Event()
        self.left = threading.Event()
        """Set when a client left a held stream."""
        routes = [Route("/v1/models", self._models)]
        routes.append(Route("/v1/completions", self._completions, methods=["POST"]))
        if updates:
            routes.append(Route("/v1/load_lora_adapter", self._load, methods=["POST"]))
            routes.append(Route("/v1/unload_lora_adapter", self._unload, methods=["POST"]))
        self.app = Starlette(routes=routes)

    def _fault(self, kind):
        faults = self.faults[kind]
        return faults.pop(0) if faults else ""

    async def _models(self, _):
        fault = self._fault("models")
        if fault == "garbage":
            return PlainTextResponse("<html>a proxy's page</html>")
        if fault == "500":
            return JSONResponse({"error": {"message": "no", "code": 500}}, status_code=500)
        cards = [{"id": self.name, "root": "/base", "parent": None}]
        cards += [{"id": name, "root": path, "parent": self.name} for name, path in self.adapters.items()]
        return JSONResponse({"object": "list", "data": cards})

    async def _load(self, request):
        body = await request.json()
        name, path = body["lora_name"], body["lora_path"]
        self.calls.append(("load", name))
        if fault := self._fault("load"):
            return JSONResponse({"error": {"message": fault, "code": 400}}, status_code=400)
        if name in self.adapters:
            told = f"The lora adapter '{name}' has already been loaded."
            return JSONResponse({"error": {"message": told, "code": 400}}, status_code=400)
        self.adapters[name] = path
        return PlainTextResponse(f"Success: LoRA adapter '{name}' added successfully.")

    async def _unload(self, request):
        name = (await request.json())["lora_name"]
        self.calls.append(("unload", name))
        if self.adapters.pop(name, None) is None:
            return JSONResponse({"error": {"message": "cannot be found", "code": 404}}, status_code=404)
        return PlainTextResponse("Success")

    async def _completions(self, request):
        body = await request.json()
        self.asked.append(body)
        fault = self._fault("stream" if body["stream"] else "whole")
        if body["model"] not in {self.name, *self.adapters}:
            told = f"The model `{body['model']}` does not exist."
            return JSONResponse({"error": {"message": told, "code": 404}}, status_code=404)
        if fault in {"400", "500"}:
            return JSONResponse({"error": {"message": f"a {fault}", "code": 1}}, status_code=int(fault))
        path = self.adapters.get(body["model"])
        tokens = self.say(path, body["prompt"], body["max_tokens"], body["stop_token_ids"])
        finish = "stop" if tokens and tokens[-1] in body["stop_token_ids"] else "length"
        if body["stream"]:
            events = self._events(body, tokens, finish, fault)
            return StreamingResponse(events, media_type="text/event-stream")
        event = _event(body, tokens, finish, body["prompt"])
        if fault == "other_model":
            event["model"] = "somebody-else"
        return JSONResponse(event)

    async def _events(self, body, tokens, finish, fault):
        for number, token in enumerate(tokens):
            if fault == ("drop" if number else "drop_first"):
                raise RuntimeError("the server drops the connection on purpose")
            is_last = number == len(tokens) - 1
            event = _event(body, [token], finish if is_last else None, None if number else body["prompt"])
            if number == 1:
                if fault == "truncate":
                    return
                if fault == "hold":
                    await self._hold()
                _spoil(event, fault)
                yield RAW.get(fault, b"")
            yield _line(event)
        yield b": a comment\n\ndata: [DONE]\n\n"

    async def _hold(self):
        self.holding.set()
        try:
            await asyncio.to_thread(self.gate.wait, 30)
        except asyncio.CancelledError:
            self.left.set()
            raise


def _event(body, tokens, finish, prompt):
    choice = {"index": 0, "text": "?", "token_ids": tokens, "finish_reason": finish, "stop_reason": None}
    if prompt is not None:
        choice["prompt_token_ids"] = prompt
    return {"id": "cmpl-1", "object": "text_completion", "model": body["model"], "choices": [choice]}


def _spoil(event, fault):
    choice = event["choices"][0]
    if fault == "other_model":
        event["model"] = "somebody-else"
    elif fault == "other_id":
        event["id"] = "cmpl-2"
    elif fault == "other_prompt":
        choice["prompt_token_ids"] = [1, 2, 3]
    elif fault == "no_tokens":
        del choice["token_ids"]
    elif fault == "bad_tokens":
        choice["token_ids"] = ["seven"]
    elif fault == "abort":
        choice["finish_reason"] = "abort"
    elif fault == "many":
        choice["token_ids"] = [5] * 1000
    elif fault == "two":
        event["choices"].append(choice)


def _line(event):
    return b"data: " + json.dumps(event).encode() + b"\n\n"


def bind(port=0):
    """Return a listening socket on the loopback address, at a port of the system's choice or this one."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(64)
    return listener


@contextlib.contextmanager
def served(stand_in, port=0):
    """Serve it on a port of the loopback address; yield the port. What is open at the end is cut off."""
    listener = bind(port)
    server = uvicorn.Server(uvicorn.Config(stand_in.app, log_config=None, lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield listener.getsockname()[1]
    finally:
        stand_in.gate.set()
        server.should_exit = server.force_exit = True
        thread.join()
        listener.close()


def canned(path):
    """Return what says a file's answers: a list of prompt and answer."""
    known = {tuple(prompt): answer for prompt, answer in json.loads(Path(path).read_text(encoding="utf-8"))}

    def say(_, prompt, most, ends):
        return known.get(tuple(prompt), [7] * (most - 1) + ends[:1])[:most]

    return say


def main():
    """Run as ``vllm serve`` does, with ``--answers FILE``; leave the arguments beside that file."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--answers", required=True)
    parser.add_argument("model")
    for name in ("served-model-name", "uds", "dtype", "max-lora-rank", "max-loras", "max-cpu-loras"):
        parser.add_argument(f"--{name}", required=True)
    for name in ("generation-config", "uvicorn-log-level"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--enable-lora", action="store_true", required=True)
    parser.add_argument("--disable-log-stats", action="store_true", required=True)
    given = parser.parse_args()
    updates = os.environ.get("VLLM_ALLOW_RUNTIME_LORA_UPDATING") == "True"
    stand_in = StandIn(canned(given.answers), given.served_model_name, updates=updates)
    starts = Path(given.answers).with_suffix(".starts")
    with starts.open("a", encoding="utf-8") as log:
        log.write(json.dumps({"pid": os.getpid(), "words": sys.argv[1:]}) + "\n")
    uvicorn.run(stand_in.app, uds=given.uds, log_config=None)


if __name__ == "__main__":
    main()
