"""What the service refuses, each with the HTTP status that says so."""


class Refused(Exception):
    """A request that is answered with a status and a reason instead of a result.

    Args:
        status: of HTTP.
        reason: what is wrong, and what to do.
        retry: seconds after which it may be tried again, for statuses that pass.

    Example:
        >>> str(Refused(404, "no item has the id 7"))
        'no item has the id 7'
    """

    def __init__(self, status: int, reason: str, *, retry: int | None = None) -> None:
        super().__init__(reason)
        self.status = status
        self.retry = retry


def busy(what: str) -> Refused:
    """More is waiting than will be done soon.

    Example:
        >>> busy("queries are waiting").status
        503
    """
    return Refused(503, f"too many {what}; try again in a second", retry=1)
