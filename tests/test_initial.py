"""First parameters from published checkpoints and runs."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from mlm_jax import train
from mlm_jax.checkpoint import restore_params
from mlm_jax.config import Init, UserError
from mlm_jax.data import tokenizers
from mlm_jax.decoders import TextDecoder
from mlm_jax.decoders.codes import CodeEncoder, Quantiser
from mlm_jax.encoders import AudioEncoder, ImageEncoder, TextEncoder, VideoEncoder
from mlm_jax.encoders.audio import LogMel
from mlm_jax.fusion import Fusion
from mlm_jax.initial import cubic, in_order, linear, nearest, resample, start_from
from mlm_jax.layers import Block, Transformer
from mlm_jax.models.audio import Audio
from mlm_jax.models.bert import Bert
from mlm_jax.models.codes import Codes
from mlm_jax.models.dalle import Dalle
from mlm_jax.models.mae import Mae
from mlm_jax.models.multimodal import Multimodal
from mlm_jax.models.video import Events, Video
from mlm_jax.models.vit import Vit
from mlm_jax.paths import named, rolled, unrolled
from mlm_jax.pretrained import load
from mlm_jax.pretrained.store import example

GOLDEN = Path(__file__).parent / "pretrained" / "golden"
BLOCK = Block(heads=3, ratio=40 / 24, eps=1e-5)


BICUBIC = (cubic, cubic)


def body(width: int = 24, **block: Any) -> Transformer:
    return Transformer(width, 2, replace(BLOCK, **block))


def multimodal(pixels: int = 8, length: int = 24, text: dict[str, Any] | None = None) -> Multimodal:
    """Of the sizes of the golden checkpoints."""
    block = {"order": "post"} if text is None else text
    return Multimodal(
        ImageEncoder((pixels, pixels), 4, class_token=True, body=body()),
        TextEncoder(61, length, types=2, body=body(**block)),
        Fusion(body=body()),
        TextDecoder(61, 24, body=body()),
    )


def start(model: Any, name: str, *take: str, skip: tuple[str, ...] = ()) -> tuple[dict, Any]:
    shapes = jax.eval_shape(model.init, jax.random.key(0), example(model))["params"]
    params = jax.tree.map(lambda x: np.full(x.shape, 0.5, x.dtype), shapes)
    tree, listing = start_from(Init(str(GOLDEN / name), take, skip), model, params)
    assert jax.tree.structure(tree) == jax.tree.structure(params)
    found, before = named(tree), named(params)
    kept = [p for p in listing.fresh if not np.array_equal(found[p], before[p])]
    assert not kept
    return found, listing


def test_the_text_encoder_of_a_bert() -> None:
    found, listing = start(multimodal(), "BertModel")
    theirs = named(load(GOLDEN / "BertModel").params)
    assert {p for p in theirs if p.startswith("text/")} == {*listing.matched}
    assert all(np.array_equal(found[p], theirs[p]) for p in listing.matched)
    assert set(listing.unused) == {"pool/kernel", "pool/bias"}
    assert not listing.differs
    assert any(line.strip().startswith("fresh") for line in listing.lines())


def test_one_part_for_another() -> None:
    found, listing = start(multimodal(), "GPT2LMHeadModel", "decoder/body=decoder/body")
    assert {p.split("/")[0] for p in listing.matched} == {"decoder"}
    assert not any("words" in p for p in listing.matched)
    model = multimodal(text={"order": "pre"})
    found, listing = start(model, "GPT2LMHeadModel", "text/body=decoder/body")
    theirs = named(load(GOLDEN / "GPT2LMHeadModel").params)
    key = "body/block_1/mlp/up/kernel"
    np.testing.assert_array_equal(found[f"text/{key}"], theirs[f"decoder/{key}"])
    assert all(p.startswith("text/body/") for p in listing.matched)


def test_another_size_of_picture_and_fewer_places() -> None:
    found, listing = start(multimodal(pixels=12), "ViTForImageClassification", "image")
    assert listing.resized == ("image/positions/table",)
    theirs = named(load(GOLDEN / "ViTForImageClassification").params)["image/positions/table"]
    table = found["image/positions/table"]
    assert table.shape == (10, 24)
    np.testing.assert_array_equal(table[0], theirs[0])
    np.testing.assert_allclose(
        table[1:], resample(theirs[1:].reshape(2, 2, -1), (3, 3), BICUBIC), rtol=1e-6
    )
    found, listing = start(multimodal(length=9), "BertModel")
    assert listing.resized == ("text/words/positions/table",)


def test_as_many_places_in_another_grid() -> None:
    """A table of 2 x 2 patches has the shape of one of 1 x 4."""
    theirs = named(load(GOLDEN / "ViTForImageClassification").params)["image/positions/table"]
    wide = Vit(ImageEncoder((4, 16), 4, class_token=True, body=body()), labels=3)
    found, listing = start(wide, "ViTForImageClassification")
    assert listing.resized == ("image/positions/table",)
    table = found["image/positions/table"]
    np.testing.assert_array_equal(table[0], theirs[0])
    np.testing.assert_array_equal(
        table[1:], resample(theirs[1:].reshape(2, 2, -1), (1, 4), BICUBIC)
    )
    assert not np.allclose(table, theirs)
    same = replace(wide, image=ImageEncoder((8, 8), 4, class_token=True, body=body()))
    found, listing = start(same, "ViTForImageClassification")
    assert not listing.resized
    np.testing.assert_array_equal(found["image/positions/table"], theirs)
    other = replace(wide, image=ImageEncoder((4, 12), 4, class_token=True, distillation_token=True))
    with pytest.raises(UserError, match=r"class_token, distillation_token, 1 x 3 patches\), there"):
        start(replace(other, image=replace(other.image, body=body())), "ViTForImageClassification")


def drawn(model: Any, seed: int = 0) -> tuple[Any, Any]:
    """A model with parameters at random."""
    rng, batch = np.random.default_rng(seed), example(model)
    shapes = jax.eval_shape(model.init, jax.random.key(0), batch)["params"]
    return model, jax.tree.map(lambda x: rng.normal(size=x.shape).astype(x.dtype), shapes)


CLIPS: dict[str, tuple[dict[str, Any], dict[str, tuple[tuple[int, ...], ...]]]] = {
    "factorised": (
        {"kind": "factorised"},
        {"positions/table": ((2, 2), (1, 4)), "time_positions/table": ((2,), (3,))},
    ),
    "joint": ({"kind": "joint"}, {"positions/table": ((2, 2), (1, 4)), "times": ((2,), (3,))}),
    "joint, one table": (
        {"kind": "joint", "positions": "table", "class_token": True},
        {"positions/table": ((2, 2, 2), (3, 1, 4))},
    ),
    "divided": (
        {"kind": "divided", "class_token": True},
        {"positions/table": ((2, 2), (1, 4)), "times": ((2,), (3,))},
    ),
}  # fmt: skip


@pytest.mark.parametrize("which", CLIPS)
def test_another_size_and_length_of_clip(which: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first rows of 8 x 8 pixels would be those of 4 x 16 by number, not by place."""
    fields, tables = CLIPS[which]

    def clips(frames: int, *size: int) -> Video:
        return Video(VideoEncoder(frames, size, 4, body=body(), time=body(), **fields))

    source, params = drawn(clips(2, 8, 8))
    monkeypatch.setattr("mlm_jax.initial.open_source", lambda _: (source, params, ()))
    tree, listing = start_from(Init("elsewhere"), *drawn(clips(3, 4, 16), 1))
    assert {*listing.resized} == {f"video/{name}" for name in tables}
    space, time = (nearest, nearest) if which == "divided" else (cubic, linear)
    kernels = {1: [time], 2: [space, space], 3: [time, space, space]}
    for name, (before, after) in tables.items():
        have, found = (named(each)[f"video/{name}"] for each in (params, tree))
        extra = len(have) - math.prod(before)
        wanted = resample(have[extra:].reshape(*before, -1), after, kernels[len(before)])
        np.testing.assert_array_equal(found, np.concatenate([have[:extra], wanted]))


def test_frames_around_are_not_seen_at_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """What pictures taught shows in each frame as it did, whatever there is before and after."""

    def clips(around: int) -> Video:
        eyes = {"kind": "pooled", "stem": "conv", "around": around}
        return Video(VideoEncoder(3, (8, 8), 4, body=body(), **eyes))

    source, params = drawn(clips(0))
    monkeypatch.setattr("mlm_jax.initial.open_source", lambda _: (source, params, ()))
    model, fresh = drawn(clips(1), 1)
    tree, listing = start_from(Init("elsewhere"), model, fresh)
    assert listing.resized == ("video/stem/conv_0/kernel",)
    batch = {"video": np.random.default_rng(0).integers(0, 256, (2, 3, 8, 8, 3), np.uint8)}
    ours, theirs = (
        jax.jit(each.apply)({"params": those}, batch)["logits"]
        for each, those in ((model, tree), (source, params))
    )
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def test_another_length_of_spectrogram(monkeypatch: pytest.MonkeyPatch) -> None:
    def sounds(frames: int) -> Audio:
        ears = AudioEncoder(
            mel=LogMel(mels=8), fill=frames, stem="patch", patch=4, stride=(4, 4), class_token=True,
            distillation_token=True, body=body(),
        )  # fmt: skip
        return Audio(ears)

    source, params = drawn(sounds(12))
    monkeypatch.setattr("mlm_jax.initial.open_source", lambda _: (source, params, ()))
    tree, listing = start_from(Init("elsewhere"), *drawn(sounds(20), 1))
    assert listing.resized == ("audio/positions/table",)
    have, found = (each["audio"]["positions"]["table"] for each in (params, tree))
    np.testing.assert_array_equal(found[:2], have[:2])
    np.testing.assert_array_equal(found[2:], resample(have[2:].reshape(2, 3, -1), (2, 5), BICUBIC))


def test_kernels() -> None:
    assert nearest(2, 3).argmax(1).tolist() == [0, 0, 1]
    assert nearest(5, 3).argmax(1).tolist() == [0, 1, 3]
    np.testing.assert_allclose(linear(2, 3), [[1, 0], [0.5, 0.5], [0, 1]])
    np.testing.assert_allclose(linear(4, 2), [[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]])


def test_the_places_of_a_masked_autoencoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its decoder has a table of its own, of the same grid."""
    rng = np.random.default_rng(0)

    def mae(size: tuple[int, int]) -> tuple[Mae, Any]:
        model = Mae(ImageEncoder(size, 4, class_token=True, body=body()), decoder=body(12))
        batch = {"image": jax.ShapeDtypeStruct((1, *size, 3), jnp.uint8)}
        shapes = jax.eval_shape(model.init, jax.random.key(0), batch)["params"]
        return model, jax.tree.map(lambda x: rng.normal(size=x.shape).astype(x.dtype), shapes)

    for size in ((4, 16), (8, 16)):
        source, params = mae((8, 8))
        monkeypatch.setattr("mlm_jax.initial.open_source", lambda _, s=source, p=params: (s, p, ()))
        tree, listing = start_from(Init("elsewhere"), *mae(size))
        assert listing.resized == ("image/positions/table", "positions/table")
        table = params["positions"]["table"]
        wanted = resample(table[1:].reshape(2, 2, -1), (size[0] // 4, size[1] // 4), BICUBIC)
        np.testing.assert_array_equal(tree["positions"]["table"][1:], wanted)


def test_what_does_not_fit_is_named_at_once() -> None:
    model = Vit(ImageEncoder((8, 8), 4, class_token=True, body=body()), labels=7)
    with pytest.raises(
        UserError, match=r"(?s)head/bias is.*head/kernel is \(24, 7\), there.*--init.skip head"
    ):
        start(model, "ViTForImageClassification")
    _, listing = start(model, "ViTForImageClassification", skip=("head",))
    assert set(listing.fresh) == {"head/kernel", "head/bias"}
    with pytest.raises(UserError, match=r"no parameter of this model is there"):
        start(model, "GPT2LMHeadModel")
    with pytest.raises(UserError, match=r"--init.take: no parameter matches `eyes`"):
        start(model, "ViTForImageClassification", "eyes=image")
    with pytest.raises(UserError, match=r"--init.take from .*: no parameter matches `eyes`"):
        start(model, "ViTForImageClassification", "image=eyes")
    with pytest.raises(UserError, match=r"--init.path .*gone: neither a run"):
        start_from(Init(str(GOLDEN / "gone")), Vit(ImageEncoder()), {})
    with pytest.raises(UserError, match=r"--init.skip: no parameter matches `heads`"):
        start(model, "ViTForImageClassification", skip=("heads",))


def test_other_mathematics_is_said() -> None:
    model = multimodal(text={"order": "post", "activation": "relu", "eps": 1e-3})
    _, listing = start(model, "BertModel")
    told = " ".join(listing.differs)
    assert "model.text.body.block.activation is relu, the checkpoint was made with gelu" in told
    assert "--model.text.body.block.eps 1e-05" in told
    assert len(listing.differs) == 2


def test_rows_of_a_head_are_put_in_the_order_of_the_data(tmp_path: Path) -> None:
    folder = shutil.copytree(GOLDEN / "ViTForImageClassification", tmp_path / "vit")
    settings = json.loads((folder / "config.json").read_text())
    names = {"id2label": {"0": "dog", "1": "owl", "2": "cat"}}
    (folder / "config.json").write_text(json.dumps(settings | names))
    theirs = load(folder)
    fresh = jax.tree.map(np.zeros_like, theirs.params)

    def heads(*classes: str) -> tuple[list[int], tuple[str, ...]]:
        tree, listing = start_from(Init(str(folder)), theirs.model, fresh, None, classes)
        there = np.asarray(theirs.params["head"]["kernel"]).T.tolist()
        order = [there.index(row) for row in np.asarray(tree["head"]["kernel"]).T.tolist()]
        bias = np.asarray(theirs.params["head"]["bias"])[order]
        np.testing.assert_array_equal(tree["head"]["bias"], bias)
        return order, listing.differs

    assert heads("cat", "dog", "owl") == ([2, 0, 1], ())
    assert heads("owl", "cat") == ([1, 2, 0], ()), "a head may have more rows than data classes"
    assert heads() == ([0, 1, 2], ()), "no data with classes"
    order, (told,) = heads("cat", "dog", "fox")
    assert order == [0, 1, 2]
    assert "does not name the classes of the data" in told
    assert "--init.skip head" in told


def test_columns_of_events_are_put_in_the_order_of_the_data(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A model has more of them than there are names; of two with one name the first counts."""
    source, params = drawn(Events(VideoEncoder(4, (8, 8), 4, body=body(), time=body()), labels=4))
    monkeypatch.setattr("mlm_jax.initial.open_source", lambda _: (source, params, ()))
    monkeypatch.setattr("mlm_jax.initial.classes_at", lambda _: ("up", "down", "up"))
    fresh = jax.tree.map(np.zeros_like, params)
    tree, listing = start_from(Init("elsewhere"), source, fresh, None, ("down", "up"))
    order = [1, 0, 2, 3]
    assert not listing.differs
    for name, leaf in named({key: tree[key] for key in ("present", "reach")}).items():
        there = named(params)[name]
        axis = -2 if name.startswith("reach") else -1
        np.testing.assert_array_equal(leaf, np.take(there, order, axis))
    np.testing.assert_array_equal(in_order(np.arange(5), (1, 0), -1), [1, 0, 2, 3, 4])


def test_scanned_layers() -> None:
    image = ImageEncoder((8, 8), 4, class_token=True, body=replace(body(), layers="scanned"))
    model = Vit(image, labels=3)
    found, listing = start(model, "ViTForImageClassification")
    assert not listing.fresh
    assert not listing.unused
    plain = load(GOLDEN / "ViTForImageClassification")
    picture = jnp.ones((1, 8, 8, 3))
    want = plain.model.apply({"params": plain.params}, {"image": picture})["logits"]
    leaves = named(plain.params)
    again = unrolled(rolled(leaves, found))
    assert all(np.array_equal(again[p], leaves[p]) for p in leaves)
    params = jax.jit(model.init)(jax.random.key(0), {"image": picture})["params"]
    tree, _ = start_from(Init(str(GOLDEN / "ViTForImageClassification")), model, params)
    got = model.apply({"params": tree}, {"image": picture})["logits"]
    np.testing.assert_allclose(got, want, atol=2e-6)


def test_tables_are_resampled_as_the_reference_does() -> None:
    with np.load(GOLDEN / "resample.npz") as golden:
        table = golden["table"]
        for size in (9, 4, 14):
            np.testing.assert_allclose(
                resample(table, (size, size), BICUBIC),
                golden[f"to{size}"].reshape(size * size, -1),
                atol=5e-6,
            )


def test_a_run_begins_where_another_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlm_jax.config.PACKAGES", ("mlm_jax", "toy"))
    data = toy.write_pictures(tmp_path / "data")
    first = toy.config(data)
    assert train.train(first, tmp_path / "first") == 0
    init = Init(str(tmp_path / "first"))
    second = replace(first, init=init, steps=1, optim=replace(first.optim, lr=0.0, ema=0.0))
    assert train.train(second, tmp_path / "second") == 0
    before, after = (named(restore_params(tmp_path / run)[1]) for run in ("first", "second"))
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[p], after[p]) for p in before)


def writer(words: int, frames: int, quantiser: Quantiser) -> tuple[Dalle, dict[str, Any]]:
    """A small DALL-E of pictures, or of clips of so many frames, and parameters of its own."""
    codes = Codes(CodeEncoder((8, 8), (2,), (8, 8)), quantiser=quantiser)
    grid = (frames, 4, 4) if frames else (4, 4)
    decoder = TextDecoder(
        words + quantiser.size, 6 + math.prod(grid), grid=grid, neighbours=True, body=body()
    )
    model = Dalle(codes, decoder, words=words, length=6, frames=frames)
    shape = (1, frames, 8, 8, 3) if frames else (1, 8, 8, 3)
    batch = {
        model.sense: jax.ShapeDtypeStruct(shape, jnp.uint8),
        "target": jax.ShapeDtypeStruct((1, 6), jnp.int32),
    }
    shapes = jax.eval_shape(model.init, jax.random.key(0), batch)["params"]
    rng = np.random.default_rng(frames)
    return model, jax.tree.map(lambda x: rng.normal(size=x.shape).astype(x.dtype), shapes)


def test_words_of_another_vocabulary_are_found_by_their_spelling(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quantiser = Quantiser(levels=(3, 3))
    pictures, clips = writer(12, 0, quantiser), writer(10, 2, quantiser)
    restored = pictures[0], jax.tree.map(jnp.asarray, pictures[1])  # as those of a run are
    monkeypatch.setattr("mlm_jax.initial.open_source", lambda _: (*restored, ()))
    init = Init(str(tmp_path), ("decoder",), ("decoder/words/positions",))
    told = tokenizers.words(["a red star left of a blue circle"])
    told.save(tmp_path / "tokenizer.json")
    own = tokenizers.words(["a red circle moves"])
    tree, listing = start_from(init, *clips, own)
    before, source = named(clips[1]), named(pictures[1])
    after = jax.tree.map(np.asarray, named(tree))
    table = "decoder/words/table/embedding"
    assert listing.by_word == (table,)
    for word in ("red", "circle", "a"):
        here, there = own.encode(word), told.encode(word)
        np.testing.assert_array_equal(after[table][here], source[table][there])
    np.testing.assert_array_equal(after[table][:4], source[table][:4])  # pad, bos, eos, unk
    (moves,) = own.encode("moves")
    np.testing.assert_array_equal(after[table][moves], before[table][moves])
    np.testing.assert_array_equal(after[table][10:], source[table][12:])  # the nine codes
    assert {p for p in listing.fresh if "back_" in p} == {
        f"decoder/beside/back_{far}/kernel" for far in (11, 14, 15, 16, 19)
    }
    assert not listing.differs
    assert any(line.endswith("decoder/words: 7 of 8 words") for line in listing.lines())

    _, listing = start_from(init, *writer(12, 2, quantiser), told)
    assert table in listing.matched
    tree, listing = start_from(init, *writer(14, 2, quantiser), told)  # the same, with more room
    rows = named(tree)[table]
    np.testing.assert_array_equal(rows[: told.size], source[table][: told.size])
    np.testing.assert_array_equal(rows[14:], source[table][12:])
    with pytest.raises(UserError, match=r"embedding is \(26, 24\), there \(21, 24\); 7 of 8 words"):
        start_from(init, *writer(10, 2, Quantiser(levels=(4, 4))), own)
    strange = tokenizers.words([" ".join("bcdefghijklmnopqrs")])
    with pytest.raises(UserError, match=r"; 4 of 22 words are known there: another vocabulary"):
        start_from(init, *clips, strange)


def test_the_bias_of_words_goes_with_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def bert(seed: int) -> tuple[Bert, dict[str, Any]]:
        model = Bert(TextEncoder(12, 6, body=body(order="post")))
        rng = np.random.default_rng(seed)
        shapes = jax.eval_shape(model.init, jax.random.key(0), example(model))["params"]
        return model, jax.tree.map(lambda x: rng.normal(size=x.shape).astype(x.dtype), shapes)

    source, own = bert(0), bert(1)
    monkeypatch.setattr("mlm_jax.initial.open_source", lambda _: (*source, ()))
    told = tokenizers.words(["a red star"])
    told.save(tmp_path / "tokenizer.json")
    new = tokenizers.words(["star a blue"])
    tree, listing = start_from(Init(str(tmp_path)), *own, new)
    assert set(listing.by_word) == {"head/bias", "text/words/table/embedding"}
    before, theirs = named(own[1]), named(source[1])
    after = jax.tree.map(np.asarray, named(tree))
    for path in listing.by_word:
        for word in ("a", "star"):
            here, there = new.encode(word), told.encode(word)
            np.testing.assert_array_equal(after[path][here], theirs[path][there])
        (blue,) = new.encode("blue")
        np.testing.assert_array_equal(after[path][blue], before[path][blue])
