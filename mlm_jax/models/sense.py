"""Models of pictures or of clips: which of the two a model is of."""

from typing import Any


def sense_of(model: Any) -> str:
    """The key of a batch that it reads, "image" or "video": the field of that name is not None.

    Raises: ValueError where both are there, or neither.
    """
    if (model.image is None) == (model.video is None):
        kind = type(model).__name__
        raise ValueError(f"{kind} is of an image or of a video: one of the two is None")
    return "video" if model.image is None else "image"
