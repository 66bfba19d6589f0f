"""Errors as Solvimon answers them: one body with type, code, message and, where known, field and resource.

Here: the error bodies and how each kind is made. Not here: deciding when one is due.
"""

from typing import Any


class ApiProblem(Exception):
    """An error answer: an HTTP status and an ``ApiError`` body (``code`` from the API's own enumeration).

    Attributes:
        status: HTTP status.
        code: Code of the API's enumeration.
        message: What the answer says.
        field: Dotted path of the field that is wrong, if one is.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        field: str | None = None,
        resource_type: str | None = None,
        resource_id: str | None = None,
    ) -> None:
        super().__init__(f"{code}: {message}")
        self.status = status
        self.code = code
        self.message = message
        self.field = field
        self.resource_type = resource_type
        self.resource_id = resource_id

    def body(self) -> dict[str, Any]:
        """The ``ApiError`` body; optional fields are left out when they are empty, as in the documented example."""
        kind = "API_ERROR" if self.status >= 500 else "INVALID_REQUEST"
        optional = {"field": self.field, "resource_type": self.resource_type, "resource_id": self.resource_id}
        filled = {name: value for name, value in optional.items() if value is not None}
        return {"type": kind, "code": self.code, "message": self.message, **filled}


class PageNotFoundError(Exception):
    """There is no such route. The answer has no ``code``: that is how it differs from a resource that was not found."""


PAGE_NOT_FOUND = {"status": 404, "message": "Page does not exist"}
"""Body for a wrong route."""


def invalid(field: str | None, message: str) -> ApiProblem:
    """400 ``INVALID_FIELD``."""
    return ApiProblem(400, "INVALID_FIELD", message, field=field)


def missing(field: str) -> ApiProblem:
    """400 ``MISSING_FIELD``."""
    return ApiProblem(400, "MISSING_FIELD", "value required, but not set", field=field)


def not_found(
    resource_type: str, *, status: int, code: str = "RESOURCE_NOT_FOUND", field: str | None = None
) -> ApiProblem:
    """The resource is unknown; the status is a knob, the code is what counts."""
    message = f"The requested {resource_type} could not be found"
    return ApiProblem(status, code, message, resource_type=resource_type, field=field)


def refused_operation(message: str, *, resource_type: str | None = None, resource_id: str | None = None) -> ApiProblem:
    """400 ``INVALID_OPERATION``: the resource is in no state for this."""
    return ApiProblem(400, "INVALID_OPERATION", message, resource_type=resource_type, resource_id=resource_id)


_BY_STATUS = {
    401: ("UNAUTHORISED", "The API key is missing, unknown or revoked"),
    403: ("USER_NOT_ALLOWED", "The API key does not allow this"),
    429: ("BAD_REQUEST", "Too many requests"),
    500: ("INTERNAL_ERROR", "Something went wrong on our side"),
}


def by_status(status: int) -> ApiProblem:
    """The error that a bare status stands for: what an injected fault or a rate limit answers.

    The enumeration has no code for 429 and the specification no such status, so its code here is an assumption.
    """
    code, message = _BY_STATUS.get(status, ("INTERNAL_ERROR", "Something went wrong on our side"))
    return ApiProblem(status, code, message)
