"""Programs made of queues: stages connected by channels, each a function or any executable.

    from broker.stages import Pipeline

    flow = Pipeline("indexer")

    @flow.stage("docs", to="words")
    def split(event):
        for word in event.data["text"].split():
            yield {"word": word}

    flow.run()

A worker is a process of its own, anywhere, and speaks to the broker over HTTP only.
"""

from broker.stages.event import Event
from broker.stages.link import Refused, Unreachable
from broker.stages.pipeline import Pipeline
from broker.stages.stage import Stage
from broker.stages.verdict import Later, Reject, Retry

__all__ = ["Event", "Later", "Pipeline", "Refused", "Reject", "Retry", "Stage", "Unreachable"]
