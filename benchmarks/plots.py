"""Line plots as SVG, of what the benchmarks measured: logarithmic in both directions, no library."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 520, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 34, 44
_COLOURS = ("#2563eb", "#dc2626", "#059669", "#9333ea")

Line = Sequence[tuple[float, float]]


def plot(title: str, across: str, up: str, lines: Mapping[str, Line]) -> str:
    """A plot with these lines, by what each is called. An x of 0 stands left of everything."""
    xs = sorted({x for line in lines.values() for x, _ in line})
    ys = [y for line in lines.values() for _, y in line if y > 0]
    least = min((x for x in xs if x > 0), default=1.0)
    place = {x: math.log10(x) if x > 0 else math.log10(least) - 1 for x in xs}
    left, right = min(place.values()), max(place.values())
    low, high = math.floor(math.log10(min(ys))), math.ceil(math.log10(max(ys)))
    high = max(high, low + 1)

    def at(x: float, y: float) -> tuple[float, float]:
        share = (place[x] - left) / (right - left) if right > left else 0.5
        height = (math.log10(y) - low) / (high - low)
        return (
            round(_LEFT + share * (WIDTH - _LEFT - _RIGHT), 1),
            round(HEIGHT - _BOTTOM - height * (HEIGHT - _TOP - _BOTTOM), 1),
        )

    said = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="11">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        f'<text x="{_LEFT}" y="16" font-size="13" fill="#111827">{escape(title)}</text>',
    ]
    for power in range(low, high + 1):
        _, y = at(xs[0], 10.0**power)
        said.append(f'<line x1="{_LEFT}" y1="{y}" x2="{WIDTH - _RIGHT}" y2="{y}" stroke="#e5e7eb"/>')
        said.append(f'<text x="{_LEFT - 6}" y="{y + 4}" text-anchor="end" fill="#374151">{short(10.0**power)}</text>')
    for x in xs:
        across_at, bottom = at(x, 10.0**low)
        said.append(
            f'<text x="{across_at}" y="{bottom + 15}" text-anchor="middle" fill="#374151">{escape(short(x))}</text>'
        )
    middle = (WIDTH + _LEFT - _RIGHT) / 2
    said.append(f'<text x="{middle}" y="{HEIGHT - 10}" text-anchor="middle" fill="#374151">{escape(across)}</text>')
    said.append(
        f'<text x="14" y="{HEIGHT / 2}" text-anchor="middle" fill="#374151" '
        f'transform="rotate(-90 14 {HEIGHT / 2})">{escape(up)}</text>'
    )
    for number, (name, line) in enumerate(lines.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        points = [at(x, y) for x, y in sorted(line) if y > 0]
        path = " ".join(f"{x},{y}" for x, y in points)
        said.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        said += [f'<circle cx="{x}" cy="{y}" r="3" fill="{colour}"/>' for x, y in points]
        said.append(f'<text x="{_LEFT + 8 + number * 150}" y="29" fill="{colour}">{escape(name)}</text>')
    return "\n".join([*said, "</svg>", ""])


def short(number: float) -> str:
    """1000 as 1k."""
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:g}{unit}"
    return f"{number:g}"
