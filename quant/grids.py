#!/usr/bin/env python3
"""Writes grids.svg: what numbers a block can hold, over its largest value, in NVFP4 and in MXFP4. Needs only Python.

    python3 quant/grids.py > quant/grids.svg
"""
import math

GRID = [0, 0.5, 1, 1.5, 2, 3, 4, 6]
LOW, HIGH = 4.0, 8.0        # the block's maximum: one octave
TENSOR_MAX = 42.0           # so that te's S = 2688 / A is 64
PANEL, HEIGHT, LEFT, TOP, GAP = 400, 300, 62, 84, 62
X_MAX = 8.2


def e4m3(v):
    """A normal number to four significant bits, ties to even."""
    step = 2.0 ** (math.floor(math.log2(v)) - 3)
    return round(v / step) * step


def nvfp4_te(am):
    s = 2688 / TENSOR_MAX
    return e4m3(am * s / 6) / s


def mxfp4_floor(am):
    return 2.0 ** (math.floor(math.log2(am)) - 2)


def panel(left, scale, title, subtitle, last):
    def x(v):
        return left + v / X_MAX * PANEL

    def y(am):
        return TOP + HEIGHT - math.log2(am / LOW) / math.log2(HIGH / LOW) * HEIGHT

    out = [f'<text class="title" x="{left}" y="{TOP - 52}">{title}</text>',
           f'<text x="{left}" y="{TOP - 34}">{subtitle}</text>']
    n = 256
    maxima = [LOW * (HIGH / LOW) ** ((i + 0.5) / n) for i in range(n)]
    scales = [scale(am) for am in maxima]
    # What lies between 6 scales and the block's largest value saturates.
    edge = [f"{x(max(am, 6 * s)):.1f},{y(am):.1f}" for am, s in zip(maxima, scales)]
    top = [f"{x(6 * s):.1f},{y(am):.1f}" for am, s in zip(maxima, scales)]
    out.append(f'<polygon class="clipped" points="{" ".join(edge + top[::-1])}"/>')
    for q in GRID:
        # Vertical where the scale stays, horizontal where it steps.
        points, previous = [], None
        for i, s in enumerate(scales):
            if s != previous:
                am = LOW * (HIGH / LOW) ** (i / n)
                if previous is not None:
                    points.append(f"{x(q * previous):.1f},{y(am):.1f}")
                points.append(f"{x(q * s):.1f},{y(am):.1f}")
                previous = s
        points.append(f"{x(q * previous):.1f},{y(HIGH):.1f}")
        out.append(f'<polyline class="number" points="{" ".join(points)}"/>')
        label = {0.5: "½", 1.5: "1½"}.get(q, f"{q}")
        out.append(f'<text class="code" x="{x(q * scales[-1]):.1f}" y="{TOP - 8}">{label}</text>')
    diagonal = [f"{x(am):.1f},{y(am):.1f}" for am in maxima]
    out.append(f'<polyline class="maximum" points="{" ".join(diagonal)}"/>')
    for am in (4, 5, 6, 7, 8):
        out.append(f'<path class="axis" d="M{left - 5},{y(am):.1f}h5"/>')
        if not last:
            out.append(f'<text class="right" x="{left - 9}" y="{y(am) + 4:.1f}">{am}</text>')
    for v in range(0, 9):
        out.append(f'<path class="axis" d="M{x(v):.1f},{TOP + HEIGHT}v5"/>')
        out.append(f'<text class="code" x="{x(v):.1f}" y="{TOP + HEIGHT + 20}">{v}</text>')
    out.append(f'<path class="axis" d="M{left},{TOP}v{HEIGHT}h{PANEL}"/>')
    out.append(f'<text class="code" x="{left + PANEL / 2}" y="{TOP + HEIGHT + 42}">value that the block can hold (negatives alike)</text>')
    return out


def main():
    width, height = LEFT + 2 * PANEL + GAP + 14, TOP + HEIGHT + 84
    middle = TOP + HEIGHT / 2
    legend = TOP + HEIGHT + 70
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">',
        "<style>text{font:13px sans-serif;fill:#222}.title{font-size:16px;font-weight:bold}.code{text-anchor:middle}"
        ".right{text-anchor:end}.number{fill:none;stroke:#0b5394;stroke-width:1.8}"
        ".maximum{fill:none;stroke:#222;stroke-width:1.4;stroke-dasharray:6 4}.axis{fill:none;stroke:#222}"
        ".clipped{fill:#e69f00;fill-opacity:.55;stroke:none}</style>",
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
        f'<text transform="translate(16,{middle}) rotate(-90)" class="code">largest value of the block</text>']
    lines += panel(LEFT, nvfp4_te, "NVFP4 (te)", "scale: E4M3, eight steps an octave", False)
    lines += panel(LEFT + PANEL + GAP, mxfp4_floor, "MXFP4 (floor)", "scale: a power of two, one step an octave", True)
    lines += [
        f'<path class="number" d="M{LEFT},{legend - 4}h34"/><text x="{LEFT + 42}" y="{legend}">0 ½ 1 1½ 2 3 4 6 times the block’s scale</text>',
        f'<path class="maximum" d="M{LEFT + 330},{legend - 4}h34"/><text x="{LEFT + 372}" y="{legend}">the largest value itself</text>',
        f'<rect class="clipped" x="{LEFT + 560}" y="{legend - 11}" width="34" height="12"/>'
        f'<text x="{LEFT + 602}" y="{legend}">saturates to 6 scales</text>',
        "</svg>"]
    print("\n".join(lines))


main()
