"""Measure contenders in turns and print the results as a table.

python -m benchmarks.measure FILE ...
"""

import argparse
import contextlib
import json
import multiprocessing
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "results"

# A contender prepares itself, then does one piece of work per value it yields.
Contender = Callable[..., Iterator[float]]


def serve(contender: Contender, arguments: Sequence[Any], pipe) -> None:
    """Do one piece of work for each message on the pipe; runs in a contender's process."""
    values = contender(*arguments)
    while pipe.recv() != "stop":
        pipe.send(next(values))


def alternate(
    contenders: Mapping[str, tuple[Any, ...]], rounds: int, warm_up: int = 1
) -> dict[str, list[float]]:
    """Run contenders in turns, each in its own process, one at a time.

    Turns spread the machine's other load evenly; separate processes keep allocators, threads and
    caches apart.

    Args:
        contenders: a module-level contender and its arguments for each name.
        rounds: measurements per contender, after `warm_up` discarded ones.

    Returns:
        The measurements of each name in order.
    """
    context = multiprocessing.get_context("spawn")
    pipes, processes = {}, []
    for name, (contender, *arguments) in contenders.items():
        pipes[name], theirs = context.Pipe()
        processes.append(context.Process(target=serve, args=(contender, arguments, theirs)))
        processes[-1].start()
        theirs.close()  # so that the pipe ends with the process
    figures: dict[str, list[float]] = {name: [] for name in contenders}
    try:
        for turn in range(warm_up + rounds):
            for name, pipe in pipes.items():
                pipe.send("go")
                figure = pipe.recv()
                if turn >= warm_up:
                    figures[name].append(figure)
            print(f"\rround {turn + 1} of {warm_up + rounds}", end="", file=sys.stderr, flush=True)
        print(file=sys.stderr)
    except (EOFError, BrokenPipeError):
        sys.exit(f"error: the process of {name!r} failed; its error is above")
    finally:
        for pipe in pipes.values():
            if not pipe.closed:
                with contextlib.suppress(OSError):
                    pipe.send("stop")
        for process in processes:
            process.join(10)
            process.kill()
    return figures


def claim(
    what: str, value: float, target: float, at_most: bool = False, provided: bool = True
) -> dict[str, Any]:
    """Compare a measured ratio with its target; `provided` is a further condition."""
    met = provided and (value <= target if at_most else value >= target)
    return {"what": what, "value": value, "target": target, "at_most": at_most, "met": met}


def ratio(figures: Mapping[str, list[float]], one: str, other: str) -> float:
    """Return the median, over rounds, of one contender's value divided by another's."""
    pairs = zip(figures[one], figures[other], strict=True)
    return statistics.median(a / b for a, b in pairs)


def report(
    path: Path,
    unit: str,
    figures: Mapping[str, list[float]],
    base: str | None = None,
    claims: Sequence[dict[str, Any]] = (),
    **more: Any,
) -> dict[str, Any]:
    """Save the measurements as JSON and print them as a table.

    Args:
        path: JSON file, named after the benchmark.
        unit: of the measurements.
        figures: measurements of each contender, one per round.
        base: contender that others are compared with; None for no comparison.
        claims: see `claim`.
        more: further entries of the record.
    """
    from cifar10.runs.environment import environment

    rows = [
        {
            "name": row,
            "median": statistics.median(values),
            "min": min(values),
            "max": max(values),
            "ratio": ratio(figures, row, base) if base else None,
            "figures": values,
        }
        for row, values in figures.items()
    ]
    record = {
        "benchmark": path.stem,
        "unit": unit,
        "base": base,
        "rows": rows,
        "claims": list(claims),
        **more,
        **environment(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rounded(record), indent=1) + "\n", encoding="utf-8")
    print(table(rounded(record)))
    print(f"\nsaved to {path}")
    return record


def output(name: str) -> Path:
    """Parse a benchmark's command line and return the path of its JSON file."""
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__)
    parser.add_argument("--out", type=Path, default=FOLDER / f"{name}.json", help="JSON file")
    return parser.parse_args().out


def rounded(value: Any) -> Any:
    """Round all floats of a plain value to five significant digits."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(item) for item in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


def number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def table(record: Mapping[str, Any]) -> str:
    """Format a record as Markdown: measurements, claims, hardware."""
    head = ["", f"median {record['unit']}", "min to max"]
    if record["base"]:
        head.append(f"/ {record['base']}")
    lines = [head, ["---"] * len(head)]
    for row in record["rows"]:
        cells = [
            row["name"],
            number(row["median"]),
            f"{number(row['min'])} to {number(row['max'])}",
        ]
        if record["base"]:
            cells.append(f"{row['ratio']:.2f}")
        lines.append(cells)
    sections = ["\n".join(f"| {' | '.join(line)} |" for line in lines)]
    if record["claims"]:
        sections.append(claims_table([record]))
    sections.append(
        f"{describe_machine(record)}, {len(record['rows'][0]['figures'])} alternating rounds."
    )
    return "\n\n".join(sections)


def describe_machine(record: Mapping[str, Any]) -> str:
    hardware, torch = record["hardware"], record["versions"]["torch"]
    threads = f"{hardware['threads']} thread{'s' * (hardware['threads'] > 1)}"
    return f"Measured on {hardware['cpu']}, {threads}, torch {torch}"


def claims_table(records: Sequence[Mapping[str, Any]]) -> str:
    lines = [["what", "measured"], ["---"] * 2]
    for record in records:
        lines += [[claim["what"], number(claim["value"])] for claim in record["claims"]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def tables(paths: Sequence[Path]) -> str:
    """Format one record, or the claims and the hardware of several."""
    records = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    if len(records) == 1:
        return table(records[0])
    machines = dict.fromkeys(map(describe_machine, records))
    return f"{claims_table(records)}\n\n{'; '.join(machines)}."


if __name__ == "__main__":
    print(tables([Path(path) for path in sys.argv[1:]]))
