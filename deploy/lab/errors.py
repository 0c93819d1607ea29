"""What the lab tells its user."""


class LabError(Exception):
    """One line for the user; ``details`` (a log's end) goes below it."""

    def __init__(self, message: str, details: str = "") -> None:
        super().__init__(message)
        self.details = details
