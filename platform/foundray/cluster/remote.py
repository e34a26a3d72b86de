"""Types of remote calls: Ray itself leaves open what the handle of an actor takes."""

from __future__ import annotations

from typing import Any, ParamSpec, Protocol

Arguments = ParamSpec("Arguments")


class Remote(Protocol[Arguments]):
    """A method of an actor, by the actor's handle."""

    def remote(self, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Any:
        """Begin a call; `ray.get` waits for its result."""
