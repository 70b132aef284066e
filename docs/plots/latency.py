#!/usr/bin/env python3
"""Draws latency under load: `onward bench` at growing rates, one SVG a part. Standard library only.

    cargo build --release && python3 docs/plots/latency.py [--binary PATH] [--seconds N] [--folder DIR] [PART...]

For each part it first asks what a closed loop of 16 clients reaches, then begins turns at 10 to 100 percent of that rate whatever comes
back (an open loop: latency counts from when a turn should have begun), on a SQLite file in a throw-away folder. Every run must end with
a verdict that is not FAIL. The machine, its fdatasync and the idle CPU stand in the drawing.
"""

import argparse
import json
import math
import pathlib
import subprocess
import sys
import tempfile

SHARES = [0.1, 0.25, 0.4, 0.55, 0.7, 0.85, 1.0]
LINES = [("p50", "#1b7837"), ("p99", "#762a83"), ("p99.9", "#b35806")]
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 720, 360, 70, 90, 46, 64
KEYS = {"lock": 16, "store": 100, "cache": 100, "audit": 1}


def bench(binary, folder, part, seconds, rate=None):
    command = [binary, "bench", part, "--url", f"sqlite:{folder}/{part}.db", "--seconds", str(seconds), "--warmup", "1",
               "--keys", str(KEYS[part]), "--seed", "7", "-o", "json"]
    if rate is not None:
        command += ["--rate", str(rate)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}: {done.stderr}{done.stdout}")
    return json.loads(done.stdout)


def millis(micros):
    return f"{micros / 1000:g} ms" if micros < 1_000_000 else f"{micros / 1_000_000:g} s"


def draw(part, runs):
    rates = [run["options"]["rate"] for run in runs]
    values = [max(1, run["latency_us"][name]) for run in runs for name, _ in LINES]
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    high = max(high, low + 1)
    across = lambda rate: LEFT + (WIDTH - LEFT - RIGHT) * rate / max(rates)
    up = lambda micros: HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (math.log10(max(1, micros)) - low) / (high - low)
    machine = runs[-1]["machine"]
    facts = f"{machine['cores']} cores, {machine['idle_percent']} % idle at the highest rate, fdatasync {machine['fdatasync_us']} us, " \
            f"{runs[0]['options']['clients']} clients, {KEYS[part]} keys, {runs[0]['options']['payload']} bytes, SQLite"
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
           f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
           f'<text x="{LEFT}" y="20" font-size="15">{part}: latency from the intended start, by load</text>',
           f'<text x="{LEFT}" y="36" fill="#555">{facts}</text>']
    for power in range(low, high + 1):
        y = up(10 ** power)
        out.append(f'<line x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}" stroke="#ddd"/>')
        out.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{millis(10 ** power)}</text>')
    for rate in rates:
        out.append(f'<text x="{across(rate):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{rate}</text>')
    out.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 22}" text-anchor="middle">turns a second</text>')
    for name, colour in LINES:
        points = [(across(run["options"]["rate"]), up(run["latency_us"][name])) for run in runs]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        out.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        out += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in points]
        out.append(f'<text x="{points[-1][0] + 8:.1f}" y="{points[-1][1] + 4:.1f}" fill="{colour}">{name}</text>')
    return "\n".join(out + ["</svg>\n"])


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--binary", default="target/release/onward")
    arguments.add_argument("--seconds", type=int, default=5)
    arguments.add_argument("--folder", default=str(pathlib.Path(__file__).parent))
    arguments.add_argument("parts", nargs="*", default=list(KEYS), metavar="PART")
    chosen = arguments.parse_args()
    for part in chosen.parts:
        if part not in KEYS:
            arguments.error(f"a part is {', '.join(KEYS)}")
        with tempfile.TemporaryDirectory(dir=".") as folder:
            peak = bench(chosen.binary, folder, part, chosen.seconds)["rate"]
            runs = [bench(chosen.binary, folder, part, chosen.seconds, max(1, round(peak * share))) for share in SHARES]
        for run in runs:
            latency = run["latency_us"]
            print(f"{part:6} {run['options']['rate']:>7}/s asked {run['rate']:>9}/s done  p50 {millis(latency['p50'])}  p99 {millis(latency['p99'])}"
                  f"  p99.9 {millis(latency['p99.9'])}  {run['verdict']}")
        pathlib.Path(chosen.folder, f"latency-{part}.svg").write_text(draw(part, runs), encoding="utf-8")


if __name__ == "__main__":
    main()
