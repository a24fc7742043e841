"""``python -m broker.stages FILE[:NAME] [STAGE ...]``: one generation of a flow's workers, for ``broker flow run``.

With ``--self-test`` first, only what the flow's `Pipeline.selftest` does: the exit status says whether it may run.
"""

from __future__ import annotations

import sys
import traceback

from broker.stages.loading import NoFlow, load


def main(words: list[str]) -> int:
    """The exit status."""
    testing = words[:1] == ["--self-test"]
    try:
        flow = load(words[testing])
        if testing:
            flow.test()
            return 0
    except NoFlow as error:
        print(f"broker: {error}", file=sys.stderr)
        return 2
    except Exception:
        traceback.print_exc()
        return 1
    flow.run(*words[1:])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
