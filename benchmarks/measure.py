"""Contenders that take turns, and the table of what they did.

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

# A contender sets itself up, then yields one figure for each piece of work it does.
Contender = Callable[..., Iterator[float]]


def serve(contender: Contender, arguments: Sequence[Any], pipe) -> None:
    """What a contender's process does: one piece of work for each word on the pipe."""
    figures = contender(*arguments)
    while pipe.recv() != "stop":
        pipe.send(next(figures))


def alternate(
    contenders: Mapping[str, tuple[Any, ...]], rounds: int, warm_up: int = 1
) -> dict[str, list[float]]:
    """Let contenders work in turns, each in a process of its own, one at a time.

    Turns spread what else goes on in the machine over all of them alike; processes of their own
    keep one's allocator, threads and caches from the others.

    Args:
        contenders: for each name, a contender at the top level of a module, then its arguments.
        rounds: figures to take from each; the first `warm_up` are thrown away besides.

    Returns:
        For each name, its figures in the order they were taken.
    """
    context = multiprocessing.get_context("spawn")
    pipes, processes = {}, []
    for name, (contender, *arguments) in contenders.items():
        pipes[name], theirs = context.Pipe()
        processes.append(context.Process(target=serve, args=(contender, arguments, theirs)))
        processes[-1].start()
        theirs.close()  # so that its death is the end of the pipe
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
        sys.exit(f"error: the process of {name!r} ended; what it said stands above")
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
    """A measured ratio beside what was to be reached; not met unless `provided` holds as well."""
    met = provided and (value <= target if at_most else value >= target)
    return {"what": what, "value": value, "target": target, "at_most": at_most, "met": met}


def ratio(figures: Mapping[str, list[float]], one: str, other: str) -> float:
    """The median over rounds of one contender's figure over another's in the same round."""
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
    """Print the table, and keep it as JSON.

    Args:
        path: the JSON file, named after the benchmark.
        unit: of the figures.
        figures: what each contender did, a figure for each round.
        base: the contender that the ratios are over; None for no ratios.
        claims: see `claim`.
        more: whatever else belongs to the record.
    """
    from cifar10.runs.result import environment

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
    print(f"\nwritten to {path}")
    return record


def output(name: str) -> Path:
    """Where the command line wants a benchmark's JSON; ends the program where it is wrong."""
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__)
    parser.add_argument("--out", type=Path, default=FOLDER / f"{name}.json", help="JSON file")
    return parser.parse_args().out


def rounded(value: Any) -> Any:
    """A plain value whose floats have five significant digits."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(item) for item in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


def number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def table(record: Mapping[str, Any]) -> str:
    """A record as Markdown: the figures, the claims, the hardware."""
    head = ["", f"median {record['unit']}", "min to max"]
    if record["base"]:
        head.append(f"over {record['base']}")
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
    parts = ["\n".join(f"| {' | '.join(line)} |" for line in lines)]
    if record["claims"]:
        parts.append(claims_table([record]))
    parts.append(f"{place(record)}, {len(record['rows'][0]['figures'])} rounds in turns.")
    return "\n\n".join(parts)


def place(record: Mapping[str, Any]) -> str:
    hardware, versions = record["hardware"], record["versions"]
    return (
        f"Measured on {hardware['cpu']}, {hardware['threads']} threads, torch {versions['torch']}"
    )


def claims_table(records: Sequence[Mapping[str, Any]]) -> str:
    lines = [["what", "measured"], ["---"] * 2]
    for record in records:
        lines += [[claim["what"], number(claim["value"])] for claim in record["claims"]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def tables(paths: Sequence[Path]) -> str:
    """One record's whole table, or of several their claims and the hardware of each."""
    records = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    if len(records) == 1:
        return table(records[0])
    places = dict.fromkeys(map(place, records))
    return f"{claims_table(records)}\n\n{'; '.join(places)}."


if __name__ == "__main__":
    print(tables([Path(path) for path in sys.argv[1:]]))
