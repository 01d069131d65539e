"""The one exception whose message is meant for the user."""


class AttractorError(ValueError):
    """Something the user can mend. The message names the file or input, what is wrong, and what to do."""
