"""A run whose parameters were drawn, not trained, and a server for it on a free port."""

import base64
import http.client
import io
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import uvicorn
from PIL import Image

from mlm_jax.checkpoint import Checkpoints
from mlm_jax.config import Config, Data
from mlm_jax.data import CAPTION_PROMPT, tokenizers
from mlm_jax.decoders import TextDecoder
from mlm_jax.encoders import ImageEncoder, TextEncoder
from mlm_jax.fusion import Fusion
from mlm_jax.layers import Block, Transformer
from mlm_jax.losses import Caption
from mlm_jax.models.multimodal import Multimodal
from mlm_jax.run import open_run
from mlm_jax.serving.answering import Playground
from mlm_jax.serving.connections import protocol
from mlm_jax.serving.server import application
from mlm_jax.world.render import render
from mlm_jax.world.scene import sample

SIDE = 32
CORPUS = [CAPTION_PROMPT, "what colour is the star ?", "a small red circle and a large blue star"]
CORPUS += ["there is one green cross , two yellow squares <b> bold </b> & more"]


def write_run(folder: Path) -> Path:
    """Parameters far from their start: every picture and every question has its own text."""

    def body() -> Transformer:
        return Transformer(width=16, depth=1, block=Block(heads=2))

    data = Data("nowhere.jsonl", text_length=24, target_length=10)
    tokenizer = tokenizers.words(CORPUS)
    model = Multimodal(
        image=ImageEncoder(size=(SIDE, SIDE), patch=8, body=body()),
        text=TextEncoder(vocab=64, length=24, body=body()),
        fusion=Fusion(body=body()),
        decoder=TextDecoder(vocab=tokenizer.size, length=10, body=body()),
    )
    with open_run(folder, Config(model=model, loss=Caption(), data=data)) as run:
        tokenizer.save(run.tokenizer)
        batch = {
            "image": np.zeros((1, SIDE, SIDE, 3), np.uint8),
            "text": np.zeros((1, 24), np.int32),
            "text_mask": np.ones((1, 24), bool),
            "target": np.zeros((1, 10), np.int32),
        }
        shapes = jax.eval_shape(model.init, jax.random.key(0), batch)["params"]
        rng = np.random.default_rng(2)

        def drawn(path: tuple, leaf: Any) -> Any:
            norm = path[-1].key == "scale"
            return jnp.array(rng.normal(2.0 * norm, 0.6 if norm else 0.3, leaf.shape), jnp.float32)

        params = jax.tree_util.tree_map_with_path(drawn, shapes)
        checkpoints = Checkpoints(run.checkpoints, 1)
        checkpoints.save(1, {"params": params}, {})
        checkpoints.wait()
        checkpoints.close()
    return folder


class Reply(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def tree(self) -> Any:
        return json.loads(self.body)


class Server:
    """A server in a thread of its own, asked over real connections."""

    def __init__(self, playground: Playground, port: int, served: Any) -> None:
        self.playground, self.port, self.served = playground, port, served

    def ask(self, tree: Any, path: str = "/api/ask", **headers: str) -> Reply:
        body = tree if isinstance(tree, bytes) else json.dumps(tree).encode()
        return self.send("POST", path, body, **{"Content-Type": "application/json", **headers})

    def send(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Reply:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            told = {key.lower(): value for key, value in answer.getheaders()}
            return Reply(answer.status, told, answer.read())
        finally:
            connection.close()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Nothing is done on the device meanwhile."""
        free = threading.Event()
        self.playground.device.submit(free.wait, 60)
        try:
            yield
        finally:
            free.set()

    def wait_for(self, inside: int) -> None:
        """Until so many requests are inside."""
        end = time.monotonic() + 30
        while self.served.door.inside != inside:
            assert time.monotonic() < end, f"{self.served.door.inside} are inside, not {inside}"
            time.sleep(0.005)


@contextmanager
def serving(playground: Playground, **settings: Any) -> Iterator[Server]:
    """`settings` are those of uvicorn."""
    served = application(playground)
    http = protocol(playground.limits.seconds)
    config = uvicorn.Config(
        served.guarded, port=0, http=http, ws="none", lifespan="on", log_level="error", **settings
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    end = time.monotonic() + 30
    while not server.started:
        assert thread.is_alive()
        assert time.monotonic() < end
        time.sleep(0.005)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield Server(playground, port, served)
    finally:
        server.should_exit = True
        thread.join(30)


def picture(seed: int = 0, size: int = 48) -> bytes:
    file = io.BytesIO()
    Image.fromarray(render(sample(np.random.default_rng(seed)), size)).save(file, "PNG")
    return file.getvalue()


def base64_of(file: bytes) -> str:
    return base64.b64encode(file).decode()
