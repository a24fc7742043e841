"""The problem types: what each means and what to do about it, for ``/problems/<type>`` and the documentation."""

from __future__ import annotations

from collections.abc import Mapping

from broker.http.call import Answer, Call, text
from broker.http.problem import Problem

#: By the last part of the type's address. A type keeps its meaning for ever.
PROBLEMS: Mapping[str, str] = {
    "bad-parameter": "A parameter, a name, or a member of a JSON body is missing, of another type, or out of range. "
    "`detail` names it; `errors` says where, if a place is known. Change the request.",
    "bad-configuration": "A configuration key is unknown, its value is wrong, or two contradict each other. Nothing "
    "was changed.",
    "blocked": "The server's status (`/status`) does not let it be done: nothing is put in, or nothing is taken "
    "either. Try again when it is up.",
    "channel-full": "A channel holds as many messages, or bytes, as it may (`max_messages`, `max_bytes`). Nothing was "
    "stored. Try again when some are settled; `retry_after` is a guess.",
    "draining": "The broker takes no new messages: it stops, or was told to drain. Try again, there or elsewhere.",
    "empty-message": "A message needs a body of at least one byte.",
    "forbidden": "The user has no right to this, or the request comes from a foreign page (`Origin`, `Host`).",
    "idempotency-in-progress": "A publish under the same `Idempotency-Key` is still under way. Ask again: "
    "the answer is then that of the first, or, if it failed, that of this one.",
    "idempotency-mismatch": "The same `Idempotency-Key` was used for something else. Use a new key for a new "
    "message, or replay.",
    "internal": "The broker failed in a way it does not explain to clients; its log does.",
    "lease-lost": "The message is not, or no longer, on loan under this lease: it ran out, was given back, or somebody "
    "else has it now. Do not repeat the request; what was done with the message may be done again by others.",
    "method-not-allowed": "The path is known, the method is not; `Allow` names those that are.",
    "not-acceptable": "The answer does not exist in a form that `Accept` allows.",
    "not-found": "There is no such path, message or problem type.",
    "not-ready": "The broker cannot store messages now; `detail` says why.",
    "not-upgraded": "No new process takes over; `detail` says why. The one that runs goes on.",
    "nothing-to-reload": "The broker was started without a configuration file and without a users file.",
    "overloaded": "The store cannot commit, or something else cannot be done in time. Nothing of the request was kept. "
    "Try again later.",
    "precondition-failed": "What is there has changed since the `ETag` in `If-Match` was read. Read it again.",
    "refused": "The store can never keep this content, whatever the circumstances.",
    "replay-over": "The replay is over: it cannot be paused, resumed or hurried any more.",
    "too-large": "The body, or a message in it, is larger than allowed. Nothing was stored.",
    "too-long": "The request line, or a header line, is too long.",
    "too-slow": "The request did not come whole in five minutes.",
    "too-many": "One connection or user asks for more at a time than it may have.",
    "unauthorized": "Credentials are needed, and those that were sent, if any, are nobody's.",
    "unsupported-type": "The `Content-Type` is none that this path takes; `detail` names those.",
}


class Problems:
    """``/problems``."""

    async def show(self, call: Call) -> Answer:
        """``GET /problems/{problem}``: what a problem type means."""
        kind = call.match.names["problem"]
        if kind not in PROBLEMS:
            raise Problem(404, "not-found")
        return text(200, f"{kind}\n\n{PROBLEMS[kind]}\n")
