"""`python -m tests.fuzz --format sparse --cases 100000 --seed 1`."""

import argparse
import sys

from . import runner


def main() -> int:
    """Runs what is asked for. Returns 1 where a case failed."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz",
        description="Calls the ops with random arguments, right and wrong. Each case must end "
        "in an error or in the right answer. Cases run in a child process: a crash or a hang is "
        "reported with the number of its case.",
    )
    parser.add_argument("--format", choices=(*runner.FORMATS, "all"), default="all")
    parser.add_argument("--cases", type=int, default=10_000, help="how many (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--case", type=int, help="run this one, in this process")
    parser.add_argument("--threads", type=int, default=2, help="of the intra-op pool")
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds that a case may take")
    options = parser.parse_args()
    formats = runner.FORMATS if options.format == "all" else (options.format,)
    if options.case is not None:
        for format in formats:
            case, way = runner.make(format, options.seed, options.case)
            print(f"{way} {case.describe()}", flush=True)
            print(runner.execute(case, way))
        return 0
    failed = 0
    for format in formats:
        result = runner.run(
            format, options.cases, options.seed, timeout=options.timeout, threads=options.threads
        )
        print(result, flush=True)
        for failure in result.failures:
            print(failure, flush=True)
        failed += len(result.failures)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
