"""What the user is told."""


class UserError(Exception):
    """Something that the user can put right: shown as a message, without a traceback."""
