"""
A fresh process for one side of one round: ``python -m benchmarks.child MEASURE JSON``.

Its last line on standard output is the JSON of what the measure's ``run`` returned.
"""

import warnings


warnings.simplefilter("ignore")  # eventlet's and pkg_resources' deprecations, in every process

import eventlet


eventlet.monkey_patch()

import importlib
import json
import sys


def main() -> None:
    """
    Run the measure that the command line names, and print what it found.
    """
    measure, arguments = sys.argv[1:]
    run = importlib.import_module(f"benchmarks.{measure}").run
    print(json.dumps(run(**json.loads(arguments))), flush=True)


if __name__ == "__main__":
    main()
