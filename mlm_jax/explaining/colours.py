"""Maps to colours: a scale that is even to the eye, and pictures under it."""

import numpy as np
from jaxtyping import Float, UInt8

# Oklab to the roots of the cones' answers, and their cubes to linear sRGB (Ottosson 2020)
TO_ROOTS = np.array(
    [
        [1, 0.3963377774, 0.2158037573],
        [1, -0.1055613458, -0.0638541728],
        [1, -0.0894841775, -1.2914855480],
    ]
)
TO_LINEAR = np.array(
    [
        [4.0767416621, -3.3077115913, 0.2309699292],
        [-1.2684380046, 2.6097574011, -0.3413193965],
        [-0.0041960863, -0.7034186147, 1.7076147010],
    ]
)
DARK, LIGHT = 0.22, 0.93  # lightness at 0 and at 1
HUES = (4.85, 1.95 + 2 * np.pi)  # radians: from violet over red to yellow
CHROMA = 0.13  # in the middle; less towards both ends, where there is less room
COVER = 0.72  # how much of a picture the colours hide


def scale(steps: int = 256) -> UInt8[np.ndarray, "steps 3"]:
    """sRGB from dark violet over red to light yellow, in steps of one length in Oklab."""
    fine = way(np.linspace(0, 1, 2048))
    walked = np.append(0, np.cumsum(np.linalg.norm(np.diff(fine, axis=0), axis=1)))
    at = np.interp(np.linspace(0, walked[-1], steps), walked, np.linspace(0, 1, len(walked)))
    linear = np.clip((way(at) @ TO_ROOTS.T) ** 3 @ TO_LINEAR.T, 0, 1)
    shown = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.round(255 * shown).astype(np.uint8)


def way(t: Float[np.ndarray, " N"]) -> Float[np.ndarray, "N 3"]:
    """The scale in Oklab, before its steps are made even."""
    hue = HUES[0] + (HUES[1] - HUES[0]) * t
    chroma = CHROMA * np.sin(np.pi * (0.16 + 0.72 * t))
    return np.stack(
        [DARK + (LIGHT - DARK) * t, chroma * np.cos(hue), chroma * np.sin(hue)], axis=-1
    )


SCALE = scale()


def coloured(values: Float[np.ndarray, "H W"]) -> UInt8[np.ndarray, "H W 3"]:
    """0 and below the darkest, 1 and above the lightest."""
    return SCALE[np.round(255 * np.clip(values, 0, 1)).astype(int)]


def over(
    picture: UInt8[np.ndarray, "H W 3"], values: Float[np.ndarray, "H W"]
) -> UInt8[np.ndarray, "H W 3"]:
    """A map over the greys of its picture; of the map what is over 0, its largest as 1."""
    grey = picture.astype(np.float32).mean(-1, keepdims=True)
    colours = coloured(shares(values)).astype(np.float32)
    return np.round((1 - COVER) * grey + COVER * colours).astype(np.uint8)


def shares(values: Float[np.ndarray, "*size"]) -> Float[np.ndarray, "*size"]:
    """Of the largest value; zeros where nothing is over 0."""
    above = np.maximum(values, 0)
    most = above.max()
    return above / most if most > 0 else above
