"""Pictures from words by codes, against the same without a cache, one whole text after another."""

from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlm_jax import drawing, memory
from mlm_jax.config import Config, Data, UserError
from mlm_jax.data.tokenizers import words
from mlm_jax.decoders import TextDecoder
from mlm_jax.decoders.codes import CodeEncoder, Quantiser
from mlm_jax.drawing import Drawing, draw, parts_of, read_prompts, written
from mlm_jax.fusion import Fused
from mlm_jax.generate import How
from mlm_jax.layers import Block, Transformer
from mlm_jax.losses import Drawn
from mlm_jax.models.cascade import Cascade
from mlm_jax.models.codes import Codes
from mlm_jax.models.dalle import Dalle
from mlm_jax.models.painter import Canvas, Painter
from mlm_jax.paths import map_named
from mlm_jax.trained import Trained

KEY = jax.random.key(0)
WORDS, LENGTH, PLACES, COUNT = 12, 6, 4, 7
MODEL = Dalle(
    Codes(CodeEncoder((4, 4), (2,), (4, 4), blocks=0), None, Quantiser("vq", count=COUNT, width=4)),
    TextDecoder(
        WORDS + COUNT,
        LENGTH + PLACES,
        grid=(2, 2),
        body=Transformer(16, 1, Block(heads=2, ratio=1.0, rotary=10.0)),
    ),
    words=WORDS,
    length=LENGTH,
)
IDS = jnp.array([[1, 5, 6, 2], [1, 7, 2, 0], [1, 4, 8, 9]])
PICTURES = jax.random.randint(KEY, (3, 4, 4, 3), 0, 256).astype(jnp.uint8)
GREEDY, SAMPLE = How(), How("sample")


@pytest.fixture(scope="module")
def params() -> Any:
    """Far from the initial values, so that each word that is seen matters."""
    batch = {"image": PICTURES, "target": IDS, "target_mask": jnp.ones_like(IDS, bool)}
    shapes = jax.eval_shape(MODEL.init, KEY, batch)["params"]
    rng = np.random.default_rng(2)

    def one(path: str, leaf: Any) -> Any:
        spread = {"scale": 0.0, "bias": 0.1}.get(path.rpartition("/")[2], 0.7)
        return jnp.asarray(
            path.endswith("scale") + spread * rng.normal(size=leaf.shape), leaf.dtype
        )

    return map_named(one, shapes)


@pytest.fixture(autouse=True)
def _few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing, "BATCH", 2)


@pytest.fixture(scope="module")
def trained(params: Any) -> Trained:
    config = Config(MODEL, Drawn(), Data(captions=1, questions=0, target_length=LENGTH))
    return Trained(Path("run"), config, words(["it is red green blue"]), params, 1)


def codes_of(params: Any, how: How, ids: Any = IDS, seed: int = 0, begun: Any = None) -> np.ndarray:
    write = partial(jax.jit(written, static_argnames=("model", "how")), MODEL, params)
    return np.asarray(write(ids, how=how, key=jax.random.key(seed), begun=begun))


def uncached(params: Any, guidance: float, given: np.ndarray | None = None) -> np.ndarray:
    """The likeliest code of each place, from the whole of the text before it."""

    @jax.jit
    def next_logits(text: Any) -> Any:
        decoder = {"params": params["decoder"]}
        return MODEL.decoder.apply(decoder, text, Fused())

    told = np.pad(np.asarray(IDS), [(0, 0), (0, LENGTH - IDS.shape[1])])
    untold = np.where(np.arange(LENGTH) > 0, MODEL.pad_id, told)
    codes = np.zeros((len(IDS), 0), int) if given is None else given
    while codes.shape[1] < PLACES:
        at, room = LENGTH + codes.shape[1] - 1, [(0, 0), (0, PLACES - codes.shape[1])]
        later = np.pad(WORDS + codes, room)
        one, none = (
            next_logits(np.concatenate([text, later], axis=1))[:, at, WORDS:]
            for text in (told, untold)
        )
        likeliest = (guidance * one + (1 - guidance) * none).argmax(-1)
        codes = np.concatenate([codes, likeliest[:, None]], axis=1)
    return codes


# --- codes ---


@pytest.mark.parametrize("guidance", [1.0, 0.0, 2.5])
def test_codes_with_a_cache_are_those_without(params: Any, guidance: float) -> None:
    found = codes_of(params, replace(GREEDY, guidance=guidance))
    np.testing.assert_array_equal(found, uncached(params, guidance))
    assert found.dtype == np.int32
    assert len(np.unique(found)) > 2, "the model draws more than one thing"


def test_guidance_goes_from_what_is_untold_to_what_is_told_and_beyond(params: Any) -> None:
    one, none = codes_of(params, GREEDY), codes_of(params, replace(GREEDY, guidance=0.0))
    np.testing.assert_array_equal(codes_of(params, replace(GREEDY, guidance=1 + 1e-6)), one)
    assert (none == none[0]).all(), "all texts begin alike"
    untold = codes_of(params, GREEDY, MODEL.hidden(IDS))
    np.testing.assert_array_equal(none, untold)
    assert not np.array_equal(one, none)


def test_words_are_never_written(params: Any) -> None:
    """Not even where the model would rather say a word."""
    words_first = jax.tree.map(jnp.copy, params)
    table = words_first["decoder"]["words"]["table"]["embedding"]
    words_first["decoder"]["words"]["table"]["embedding"] = table.at[WORDS:].multiply(0.1)
    text = jnp.pad(IDS, [(0, 0), (0, 2)])
    logits = MODEL.decoder.apply({"params": words_first["decoder"]}, text, Fused())
    assert (logits[:, -1].argmax(-1) < WORDS).all()
    for how in (GREEDY, replace(SAMPLE, guidance=3.0, top_p=0.9)):
        codes = codes_of(words_first, how)
        assert codes.shape == (3, PLACES)
        assert codes.min() >= 0
        assert codes.max() < COUNT


def test_samples_are_drawn_by_the_probabilities_of_the_model(params: Any) -> None:
    count = 4_000
    drawn = codes_of(params, SAMPLE, jnp.repeat(IDS[:1], count, axis=0))
    text = jnp.pad(IDS[:1], [(0, 0), (0, 2)])
    logits = MODEL.decoder.apply({"params": params["decoder"]}, text, Fused())
    wanted = count * np.asarray(jax.nn.softmax(logits[0, -1, WORDS:]))
    seen, often = np.bincount(drawn[:, 0], minlength=COUNT), wanted > 5
    assert often.sum() > 2
    assert (((seen - wanted) ** 2 / wanted)[often]).sum() < 22.5  # 1 in 1,000, of six


def test_of_begun_pictures_the_first_half_is_kept(params: Any) -> None:
    bound = {"params": params["codes"]}
    given = np.asarray(MODEL.codes.apply(bound, PICTURES, method="encode_codes"))[:, :2]
    for guidance in (1.0, 2.5):
        found = codes_of(params, replace(GREEDY, guidance=guidance), begun=PICTURES)
        np.testing.assert_array_equal(found, uncached(params, guidance, given))
    assert not np.array_equal(given, codes_of(params, GREEDY)[:, :2])


def films(params: Any, frames: int) -> tuple[Dalle, Any]:
    """It draws clips, by parameters of its own for each frame."""
    decoder = MODEL.decoder.clone(length=LENGTH + frames * PLACES, grid=(frames, 2, 2))
    table = params["decoder"]["words"]["positions"]["table"]
    places = jnp.concatenate([table, *(0.5 * i - table[LENGTH:] for i in range(1, frames))])
    words = {**params["decoder"]["words"], "positions": {"table": places}}
    model = MODEL.clone(decoder=decoder, frames=frames)
    return model, {**params, "decoder": {**params["decoder"], "words": words}}


def test_a_picture_is_the_first_frame_of_a_clip(params: Any) -> None:
    model, params = films(params, 3)
    found = written(model, params, IDS, GREEDY, KEY, PICTURES)
    assert found.shape == (3, 3 * PLACES)
    coder = {"params": params["codes"]}
    first = MODEL.codes.apply(coder, PICTURES, method="encode_codes")
    np.testing.assert_array_equal(found[:, :PLACES], first)
    free = written(model, params, IDS, GREEDY, KEY)
    assert not np.array_equal(found[:, PLACES:], free[:, PLACES:])


def test_of_begun_clips_the_first_frames_are_kept(params: Any) -> None:
    model, params = films(params, 2)
    clips = jnp.stack([PICTURES, PICTURES[::-1]], axis=1)
    found = written(model, params, IDS, GREEDY, KEY, clips)
    assert found.shape == (3, 2 * PLACES)
    coder = {"params": params["codes"]}
    first = MODEL.codes.apply(coder, PICTURES, method="encode_codes")
    np.testing.assert_array_equal(found[:, :PLACES], first)
    pixels = drawing.by_codes(model, params, {"target": IDS}, Drawing(GREEDY), KEY, clips)
    assert pixels.shape == (3, 2, 4, 4, 3)


# --- pictures ---

PROMPTS = ["it is red", "it is blue", "it is green"]


def test_pictures_are_those_of_the_codes_and_of_their_seed(trained: Trained) -> None:
    one, same = (draw(trained, PROMPTS, seed=3) for _ in range(2))
    assert one.shape == (3, 4, 4, 3)
    assert one.dtype == np.uint8
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, draw(trained, PROMPTS, seed=4))
    how = Drawing(codes=GREEDY)
    rows = [trained.tokenise("", prompt, "")["target"] for prompt in PROMPTS]
    codes = codes_of(trained.params, GREEDY, jnp.stack(rows))
    bound = {"params": trained.params["codes"]}
    pixels = MODEL.codes.apply(bound, jnp.asarray(codes), method="decode_codes")
    off = draw(trained, PROMPTS, how=how).astype(int) - np.asarray(pixels * 255)
    assert np.abs(off).max() < 0.51


def test_many_prompts_are_drawn_a_few_at_a_time(trained: Trained) -> None:
    """None of them twice alike, and begun pictures with their own prompts."""
    many = draw(trained, ["it is red"] * 8, seed=1)
    assert len(many) == 8
    assert not np.array_equal(many[:2], many[2:4])
    how = Drawing(codes=GREEDY)
    whole = draw(trained, PROMPTS, how=how, begun=np.asarray(PICTURES))
    alone = [
        draw(trained, PROMPTS[i : i + 1], how=how, begun=np.asarray(PICTURES[i : i + 1]))
        for i in range(3)
    ]
    np.testing.assert_array_equal(whole, np.concatenate(alone))


def test_no_more_are_drawn_than_the_next_power_of_two(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drawing, "BATCH", 8)
    parts = {count: [part.tolist() for part in parts_of(count)] for count in (1, 3, 9)}
    assert parts == {1: [[0]], 3: [[0, 1, 2, 2]], 9: [[*range(8)], [8] * 8]}
    many = draw(trained, [*PROMPTS, *PROMPTS[:2], *PROMPTS], seed=3)
    np.testing.assert_array_equal(draw(trained, PROMPTS, seed=3), many[:3])


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("it is a purple cow", "run has never seen: a, purple, cow"),
        ("", "--prompt is empty"),
        (" \n", "--prompt is empty"),
        ("it is red it is red", r"--prompt.*'it is red it is red' has 6 tokens.*6 accepts 4"),
    ],
)
def test_prompts_that_cannot_be_drawn_are_named(
    trained: Trained, prompt: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        draw(trained, ["it is red", prompt])


def test_what_draws_nothing_is_named(trained: Trained) -> None:
    codes = MODEL.codes.clone(parent=None)
    upsampler = Painter(Canvas((8, 8)), text=None, enlarges=2)
    for model, message in (
        (codes, "run: a Codes draws nothing"),
        (Cascade(codes, upsampler), "run: a Codes draws nothing"),
        (upsampler, "run enlarges 2 times: it draws as the upsampler of a Cascade"),
    ):
        config = replace(trained.config, model=model)
        with pytest.raises(UserError, match=message):
            draw(trained._replace(config=config), PROMPTS)


def test_memory_is_what_the_system_and_its_group_have_left(tmp_path: Path) -> None:
    system, group = tmp_path / "meminfo", tmp_path / "group"
    system.write_text("MemTotal:  9000 kB\nMemAvailable:  5000 kB\nHugePages_Total:  0\n")
    assert memory.free_on_host(system, group) == 5000 << 10
    group.mkdir()
    (group / "memory.stat").write_text("anon 1000\nfile 4000\n")
    for most, free in (("max", 5000 << 10), ("3000", 2000)):
        (group / "memory.max").write_text(f"{most}\n")
        assert memory.free_on_host(system, group) == free
    assert memory.free_on_host(tmp_path / "none", tmp_path / "none") > 2**28


def test_options_are_of_what_reads_them(trained: Trained) -> None:
    how = drawing.drawing_of(trained, {"guidance": 2.0, "top_k": 3})
    assert how.codes == replace(Drawing().codes, guidance=2.0, top_k=3)
    assert how.paint == Drawing().paint
    assert drawing.settings_of(trained, how).keys() == {"step", "codes"}
    for option in ("sampler", "told", "steps"):
        with pytest.raises(UserError, match=f"--{option}: a Dalle does not read it"):
            drawing.drawing_of(trained, {option: 3})
    painter = trained._replace(config=replace(trained.config, model=Painter(Canvas((8, 8)))))
    assert drawing.drawing_of(painter, {"steps": 3}).paint.steps == 3
    noisy: dict[str, Any] = {"eta": 0.5, "sampler": "ddim"}
    for given in (noisy, dict(reversed(noisy.items()))):
        assert drawing.drawing_of(painter, given).paint == replace(Drawing().paint, **noisy)
    with pytest.raises(UserError, match="--top-k: a Painter does not read it"):
        drawing.drawing_of(painter, {"top_k": 3})


def test_of_an_upsampler_the_guidance_that_is_recorded_is_its_own(trained: Trained) -> None:
    """Where the base writes codes nothing else paints."""
    for base, guidance in ((MODEL, 1.0), (Painter(Canvas((4, 4))), 3.0)):
        model = Cascade(base, Painter(Canvas((8, 8)), text=None, enlarges=2))
        run = trained._replace(config=replace(trained.config, model=model))
        settings = drawing.settings_of(run, Drawing())
        assert settings["paint"] == asdict(Drawing().paint) | {"guidance": guidance}
    assert "guidance" in drawing.settings_of(trained, Drawing())["codes"]


def test_what_memory_cannot_hold_is_refused_before_it_is_drawn(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = (MODEL, trained.params, read_prompts(trained, PROMPTS[:2]), Drawing(), KEY, None)
    sizes: Any = drawing.by_codes.lower(*arguments).compile().memory_analysis()
    needed = sizes.temp_size_in_bytes + sizes.output_size_in_bytes
    assert needed > 2 * 4 * 4 * 3, "the pictures themselves at least"
    assert memory.free() > 2**28
    monkeypatch.setattr(memory, "free", lambda: needed)
    assert len(draw(trained, PROMPTS)) == 3
    monkeypatch.setattr(memory, "free", lambda: needed - 1)
    with pytest.raises(UserError, match=r"2 pictures, drawn at a time, take .* GiB, and there are"):
        draw(trained, PROMPTS)
