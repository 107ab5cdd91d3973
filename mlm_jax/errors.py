"""What the user is told."""

from collections.abc import Mapping


class UserError(Exception):
    """Something that the user can put right: shown as a message, without a traceback."""


def require(settings: object, fine: Mapping[str, tuple[bool, str]]) -> None:
    """`fine`: field -> whether it is right, and what is. Raises: UserError for one that is not."""
    for name, (good, accepted) in fine.items():
        if not good:
            raise UserError(f"{name} is {getattr(settings, name)}: {accepted}")
