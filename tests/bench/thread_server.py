"""A server as inference templates have it: a thread for each request, model.generate in it, TextIteratorStreamer out.

`python -m tests.bench.thread_server FOLDER DTYPE PORT [ADAPTER]`; answers POST /v1/chat/completions as a stream, GET
for health. An adapter is computed by PEFT beside the weights, as those templates do.
"""

from __future__ import annotations

import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def __init__(self, port: int, model: Any, tokenizer: Any) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.model, self.tokenizer = model, tokenizer


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def do_POST(self) -> None:
        from transformers import TextIteratorStreamer

        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        model, tokenizer = self.server.model, self.server.tokenizer
        inputs = tokenizer.apply_chat_template(
            asked["messages"], add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
        arguments = {"max_new_tokens": asked["max_tokens"], "do_sample": True, "temperature": 1.0, "streamer": streamer}
        threading.Thread(target=model.generate, kwargs={**inputs, **arguments}).start()
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        for text in streamer:
            piece = {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]}
            self.wfile.write(f"data: {json.dumps(piece)}\n\n".encode())
            self.wfile.flush()
        self.wfile.write(b"data: [DONE]\n\n")


def main() -> None:
    """Load the model and serve until killed."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, dtype, port, *adapters = sys.argv[1:]
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))
    for adapter in adapters:
        model = PeftModel.from_pretrained(model, adapter)
    model.eval()
    _Server(int(port), model, AutoTokenizer.from_pretrained(folder)).serve_forever()


if __name__ == "__main__":
    main()
