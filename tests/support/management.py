"""RabbitMQ's management HTTP API, as far as the tests need it. Blocking; a call takes a few ms."""

from __future__ import annotations

import base64
import http.client
import json
from typing import Any
from urllib.parse import quote, unquote, urlsplit

USER = "taskyard"
PASSWORD = "taskyard"


class ManagementError(RuntimeError):
    """The management API refused a request; `status` is the HTTP status, 0 when nobody answered."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Management:
    """Requests to one server's management API."""

    def __init__(self, url: str, *, timeout_s: float = 10.0) -> None:
        """Take the base URL with user and password in it, and the patience with an answer."""
        parts = urlsplit(url)
        self.url = url
        self.user = unquote(parts.username or USER)
        password = unquote(parts.password or PASSWORD)
        self._host = parts.hostname or "127.0.0.1"
        self._port = parts.port or 15672
        self._timeout_s = timeout_s
        credentials = base64.b64encode(f"{self.user}:{password}".encode()).decode()
        self._headers = {
            "Authorization": f"Basic {credentials}",
            "Content-Type": "application/json",
        }

    def request(self, method: str, path: str, body: object = None) -> Any:
        """Send one request.

        Args:
            method: The HTTP verb.
            path: The path below `/api/`, already quoted.
            body: Sent as JSON.

        Returns:
            The answer, decoded from JSON; None when it is empty.

        Raises:
            ManagementError: The status is not a success, or nobody answered.
        """
        connection = http.client.HTTPConnection(self._host, self._port, timeout=self._timeout_s)
        try:
            payload = None if body is None else json.dumps(body)
            connection.request(method, f"/api/{path}", payload, self._headers)
            answer = connection.getresponse()
            text = answer.read().decode()
        except (OSError, http.client.HTTPException) as error:
            raise ManagementError(0, f"{method} /api/{path}: {error}") from error
        finally:
            connection.close()
        if answer.status >= 300:
            raise ManagementError(answer.status, f"{method} /api/{path}: {answer.status} {text}")
        return json.loads(text) if text else None

    def add_vhost(self, name: str) -> None:
        """Create a virtual host and give this user every permission in it."""
        self.request("PUT", f"vhosts/{_quoted(name)}", {})
        everything = {"configure": ".*", "write": ".*", "read": ".*"}
        self.request("PUT", f"permissions/{_quoted(name)}/{_quoted(self.user)}", everything)

    def delete_vhost(self, name: str) -> None:
        """Delete a virtual host and all that is in it; one that is not there is no error."""
        self._delete(f"vhosts/{_quoted(name)}")

    def purge_queue(self, vhost: str, queue: str) -> None:
        """Throw away the ready messages of a queue."""
        self.request("DELETE", f"queues/{_quoted(vhost)}/{_quoted(queue)}/contents")

    def delete_queue(self, vhost: str, queue: str) -> None:
        """Delete a queue, whatever it holds; one that is not there is no error."""
        self._delete(f"queues/{_quoted(vhost)}/{_quoted(queue)}")

    def queues(self, vhost: str) -> list[dict[str, Any]]:
        """List the queues of a virtual host; counts are as old as the statistics interval."""
        listed: list[dict[str, Any]] = self.request("GET", f"queues/{_quoted(vhost)}")
        return listed

    def close_connections(self, vhost: str) -> int:
        """Have the server close every client connection of a virtual host; return how many."""
        listed = self.request("GET", f"vhosts/{_quoted(vhost)}/connections")
        for connection in listed:
            self._delete(f"connections/{_quoted(connection['name'])}")
        return len(listed)

    def _delete(self, path: str) -> None:
        try:
            self.request("DELETE", path)
        except ManagementError as error:
            if error.status != 404:
                raise


def _quoted(name: str) -> str:
    return quote(name, safe="")
