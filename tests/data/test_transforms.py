import io
import json
import shutil
from collections import Counter

import numpy as np
import pytest
import tokenizers as hf
from conftest import encoded, picture
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mlm_jax.config import Data, UserError
from mlm_jax.data import CAPTION_PROMPT
from mlm_jax.data.records import BadRecord, Question, Record
from mlm_jax.data.tokenizers import Tokenizer, words
from mlm_jax.data.transforms import (
    Decode,
    Pick,
    Shift,
    Text,
    Tokenise,
    decode_for,
    keep_preprocessor,
    take_for,
    with_kept,
)
from mlm_jax.encoders import VideoEncoder
from mlm_jax.pretrained.pixels import DEFAULTS


def test_the_right_size_is_left_alone():
    for image in (picture(0), encoded(picture(0))):
        assert (Decode((12, 16))(image) == picture(0)).all()


def test_stretching_is_pillows():
    expected = Image.fromarray(picture(0, 40, 60)).resize((16, 12), Image.Resampling.BICUBIC)
    assert (Decode((12, 16))(picture(0, 40, 60)) == np.asarray(expected)).all()


def halves(height: int, width: int) -> np.ndarray:
    """Black, with the outer quarters of the longer side in red."""
    image = np.zeros((height, width, 3), np.uint8)
    along = image if height > width else image.swapaxes(0, 1)
    along[: len(along) // 4, :, 0] = along[-len(along) // 4 :, :, 0] = 255
    return image


@pytest.mark.parametrize("shape", [(20, 40), (40, 20)])
def test_cropping_takes_the_centre(shape):
    found = Decode((10, 10), "crop")(halves(*shape))
    assert found.shape == (10, 10, 3)
    assert found[1:-1, 1:-1].max() < 20


def test_padding_keeps_everything_on_white():
    found = Decode((10, 10), "pad")(np.zeros((20, 40, 3), np.uint8))
    assert (found[:2] == 255).all()
    assert (found[-2:] == 255).all()
    assert (found[3:7] == 0).all()


def test_decoding_names_the_place_of_what_it_cannot_read():
    with pytest.raises(BadRecord, match=r"mine.png: image: not a readable picture"):
        Decode((4, 4))(b"no", "mine.png")
    with pytest.raises(BadRecord, match=r"rows:3: image: float64 \[4, 4, 3\]; accepted: uint8"):
        Decode((4, 4))(np.zeros((4, 4, 3)), "rows:3")


def test_a_run_keeps_the_image_processor_it_began_with(tmp_path):
    folder, run, size = tmp_path / "published", tmp_path / "run", (12, 16)
    folder.mkdir()
    run.mkdir()
    file = folder / "preprocessor_config.json"
    cut = {"do_center_crop": True, "crop_size": {"height": 12, "width": 16}}
    own = {"size": {"height": 20, "width": 18}, "resample": 0, **cut}
    file.write_text(json.dumps({"image_processor_type": "ViTImageProcessor", **own}))
    data = Data(preprocessor=str(folder))
    assert with_kept(data, run) is data
    with pytest.raises(UserError, match=rf"{folder} makes pictures of \(12, 16\)"):
        keep_preprocessor(data, (12, 12), run)
    assert not list(run.iterdir())
    keep_preprocessor(data, size, run)
    before = decode_for(data, size)(picture(0, 40, 60))
    file.write_text(json.dumps({"image_processor_type": "ViTImageProcessor", **own, "resample": 3}))
    keep_preprocessor(data, size, run)
    assert not (decode_for(data, size)(picture(0, 40, 60)) == before).all()
    assert (decode_for(with_kept(data, run), size)(picture(0, 40, 60)) == before).all()
    shutil.rmtree(folder)
    keep_preprocessor(data, size, run)
    assert (decode_for(with_kept(data, run), size)(picture(0, 40, 60)) == before).all()
    assert with_kept(Data(), run) == Data()


def test_a_picture_that_a_processor_cannot_make_is_a_broken_one():
    """So narrow that it would have 65 million pixels: others of the data are read."""
    thin = np.zeros((1, 1300, 3), np.uint8)
    with pytest.raises(BadRecord, match=r"a:1: image: .*pixels"):
        Decode((224, 224), published=DEFAULTS["CLIP"])(thin, "a:1")


def test_frames_are_prepared_as_pictures_are(tmp_path):
    own = {"image_processor_type": "ViTImageProcessor", "resample": 0}
    size = {"size": {"height": 12, "width": 16}}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(own | size))
    data, shots = Data(preprocessor=str(tmp_path)), (picture(0, 40, 60), picture(1, 40, 60))
    take = take_for(data, {"video": VideoEncoder(frames=2, size=(12, 16), patch=4)})
    frames = take(Record("rows:1", video=shots, rate=1.0))["video"]
    one = decode_for(data, (12, 16))
    assert (frames == [one(shot) for shot in shots]).all()
    assert not (frames[0] == Decode((12, 16))(shots[0])).all()
    with pytest.raises(UserError, match=r"makes pictures of \(12, 16\)"):
        take_for(data, {"video": VideoEncoder(frames=2, size=(16, 16), patch=4)})


def test_grey_arrays_become_rgb():
    for grey in (picture(0)[..., :1], picture(0)[..., 0]):
        assert (Decode((12, 16))(grey) == picture(0)[..., :1]).all()


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 20), st.integers(0, 2**32))
def test_shifting_is_padding_and_cropping(pixels, seed):
    image = picture(0)
    found = Shift(pixels)(image, np.random.default_rng(seed))
    padded = np.pad(image, ((pixels, pixels), (pixels, pixels), (0, 0)), mode="edge")
    windows = [
        padded[y : y + 12, x : x + 16] for y in range(2 * pixels + 1) for x in range(2 * pixels + 1)
    ]
    assert any((found == window).all() for window in windows)


def test_every_shift_occurs():
    image = picture(0)
    rng = np.random.default_rng(0)
    found = Counter(Shift(1)(image, rng).tobytes() for _ in range(900))
    assert len(found) == 9
    assert min(found.values()) > 60


BOTH = Record(
    "rows:1",
    b"",
    captions=("c0", "c1"),
    questions=tuple(Question(f"q{i}", (f"a{i}", f"b{i}"), where=f"rows:{i}") for i in range(3)),
    caption_rows=("rows:8", "rows:9"),
)


def test_texts_are_of_the_kind_that_was_asked_for():
    rng = np.random.default_rng(0)
    for _ in range(100):
        told, asked = Pick(2, 3)(BOTH, rng)
        assert sorted(told) == [
            Text(CAPTION_PROMPT, "c0", "rows:8"),
            Text(CAPTION_PROMPT, "c1", "rows:9"),
        ]
        assert len(asked) == 3
        for question, answer, where, _ in asked:
            number = question[1]
            assert answer in (f"a{number}", f"b{number}")
            assert where == f"rows:{number}"
    assert Pick(2, 0)(BOTH, rng)[0][0][0] == CAPTION_PROMPT
    assert len(Pick(2, 0)(BOTH, rng)) == len(Pick(0, 3)(BOTH, rng)) == 1


def test_every_text_and_every_answer_is_picked_equally_often():
    rng = np.random.default_rng(0)
    picked = Counter(Pick(0, 1)(BOTH, rng)[0][0] for _ in range(3000))
    assert len(picked) == 6
    assert min(picked.values()) > 400


def test_no_text_is_repeated_before_all_were_used():
    rng = np.random.default_rng(0)
    for _ in range(50):
        questions = [text.question for text in Pick(0, 7)(BOTH, rng)[0]]
        assert sorted(Counter(questions).values()) == [2, 2, 3]
        assert len(set(questions[:3])) == len(set(questions[3:6])) == 3


def test_a_record_of_one_kind_gives_that_kind():
    rng = np.random.default_rng(0)
    told = Record("rows:1", b"", captions=("c0",))
    asked = Record("rows:1", b"", questions=(Question("q0", ("a0",)),))
    caption, question = Text(CAPTION_PROMPT, "c0", "rows:1"), Text("q0", "a0", "rows:1")
    assert Pick(1, 2)(told, rng) == [[caption], [caption] * 2]
    assert Pick(2, 1)(asked, rng) == [[question] * 2, [question]]


def test_rows_are_padded_and_masked():
    tokenizer = words(["is it red", "yes"])
    row = Tokenise(tokenizer, 4, 5)("is it red", "yes")
    (yes,) = tokenizer.encode("yes")
    assert row["text"].tolist() == [*tokenizer.encode("is it red"), 0]
    assert row["text_mask"].tolist() == [True, True, True, False]
    assert row["target"].tolist() == [1, yes, 2, 0, 0]
    assert row["target_mask"].tolist() == [True, True, True, False, False]
    assert row["scored"].tolist() == [False, True, True, False, False]
    assert [row[key].dtype for key in row] == [np.int32, bool, np.int32, bool, bool]


def test_texts_that_are_too_long_are_bad_records():
    tokenise = Tokenise(words(["one two three four"]), 3, 4)
    tokenise("one two three", "one two")
    with pytest.raises(
        BadRecord, match=r"rows:7: text: 'one.*' has 4 tokens; --data.text-length 3"
    ):
        tokenise("one two three four", "one", "rows:7")
    with pytest.raises(BadRecord, match=r"has 3 tokens; --data.target-length 4 accepts 2"):
        tokenise("one", "one two three", "rows:7")


def test_jpeg_is_decoded_as_pillow_does():
    data = encoded(picture(3, 40, 60), "JPEG")
    expected = Image.open(io.BytesIO(data)).resize((16, 12), Image.Resampling.BICUBIC)
    assert (Decode((12, 16))(data) == np.asarray(expected)).all()


def test_questions_stand_between_the_ends_of_a_published_tokenizer():
    inner = hf.Tokenizer(
        hf.models.WordLevel({"[PAD]": 0, "[CLS]": 1, "[SEP]": 2, "[UNK]": 3, "is": 4})
    )
    inner.pre_tokenizer = hf.pre_tokenizers.Whitespace()
    inner.post_processor = hf.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    row = Tokenise(Tokenizer(inner), 5, 5)("is is", "is")
    assert row["text"].tolist() == [1, 4, 4, 2, 0]
    assert row["target"].tolist() == [1, 4, 2, 0, 0]
    with pytest.raises(BadRecord, match="has 6 tokens"):
        Tokenise(Tokenizer(inner), 5, 5)("is is is is", "is")
