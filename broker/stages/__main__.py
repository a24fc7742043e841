"""``python -m broker.stages FILE[:NAME] [STAGE ...]``: a generation of a flow's workers, for ``broker flow run``.

It runs its self-test first: what is tested is what runs, whatever becomes of the file meanwhile.
"""

from __future__ import annotations

import sys
import traceback

from broker.stages.loading import NoFlow, load


def main(words: list[str]) -> int:
    """The exit status."""
    try:
        flow = load(words[0])
        flow.test()
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
