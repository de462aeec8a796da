"""The one error type that users of the pack meet."""


class LimelightError(ValueError):
    """Bad input. The message names the input, what was found, what was expected and what to do."""
