"""Records `serin demo` as an animated SVG for the README.

Runs the command in a pseudo-terminal, follows its screen with a terminal
emulator (pyte), and writes one SVG whose frames are shown in real time, shortened
where little happens. Needs `pip install pyte` and a release build:

    cargo build --release
    python scripts/record_demo.py --out demo.svg -- target/release/serin demo
"""

import argparse
import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
import time
from html import escape

import pyte

COLUMNS, LINES = 80, 30
CELL_W, CELL_H, PAD = 8.4, 17, 12
COLOURS = {
    "default": "#d8dee9", "red": "#ef6b73", "green": "#8fd17f", "brown": "#ebcb8b",
    "yellow": "#ebcb8b", "blue": "#81a1c1", "magenta": "#b48ead", "cyan": "#6cc4d4",
    "black": "#7b8494", "brightblack": "#7b8494", "white": "#eceff4",
}
BACKGROUND = "#20242c"


def follow(command, every):
    """Yields (seconds, rows of (text, colour, background, bold) runs), then the exit code."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
    child = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave,
                             close_fds=True, start_new_session=True)
    os.close(slave)
    screen = pyte.Screen(COLUMNS, LINES)
    stream = pyte.ByteStream(screen)
    begun, due = time.monotonic(), 0.0
    while True:
        ready, _, _ = select.select([master], [], [], every)
        try:
            data = os.read(master, 65536) if ready else b""
        except OSError:
            break
        if ready and not data:
            break
        # The emulator has no second screen; output after the live view begins on a cleared one.
        _, enter, after = data.partition(b"\x1b[?1049h")
        if enter:
            screen.reset()
            data = after
        live, leave, rest = data.partition(b"\x1b[?1049l")
        stream.feed(live)
        if leave:
            screen.reset()
            stream.feed(rest)
        now = time.monotonic() - begun
        if now >= due:
            due = now + every
            yield now, snapshot(screen)
    code = child.wait()
    yield time.monotonic() - begun, snapshot(screen)
    if code:
        raise SystemExit(f"the command ended with {code}")


def snapshot(screen):
    """The screen as rows of runs of equal style."""
    rows = []
    for y in range(LINES):
        runs = []
        for x in range(COLUMNS):
            char = screen.buffer[y][x]
            fore, back = char.fg, char.bg
            if char.reverse:
                fore, back = back, fore
            style = (fore, back, char.bold)
            if runs and runs[-1][1] == style:
                runs[-1][0] += char.data
            else:
                runs.append([char.data, style])
        rows.append(tuple((text, style) for text, style in runs))
    return tuple(rows)


def colour(name, fallback):
    if name == "default":
        return fallback
    return COLOURS.get(name, f"#{name}" if len(name) == 6 else fallback)


def row_svg(y, runs):
    """The runs of one row as SVG text, with boxes where the background differs."""
    out, x = [], 0
    top = PAD + y * CELL_H
    for text, (fore, back, bold) in runs:
        width = len(text) * CELL_W
        left = PAD + x * CELL_W
        if back != "default":
            out.append(f'<rect x="{left:.1f}" y="{top}" width="{width:.1f}" height="{CELL_H}" '
                       f'fill="{colour(back, BACKGROUND)}"/>')
        if text.strip():
            weight = ' font-weight="bold"' if bold else ""
            fill = colour(fore, COLOURS["default"] if back == "default" else BACKGROUND)
            out.append(f'<text x="{left:.1f}" y="{top + 13}" fill="{fill}"{weight} '
                       f'textLength="{width:.1f}" xml:space="preserve">{escape(text)}</text>')
        x += len(text)
    return "".join(out)


def svg(frames):
    """One SVG of (duration in seconds, rows) frames that loops for ever."""
    width, height = COLUMNS * CELL_W + 2 * PAD, LINES * CELL_H + 2 * PAD
    total = sum(duration for duration, _ in frames)
    styles, groups, at = [], [], 0.0
    for number, (duration, rows) in enumerate(frames):
        begin, end = 100 * at / total, 100 * (at + duration) / total
        at += duration
        first = "" if number == 0 else "0%{visibility:hidden}"
        styles.append(f"@keyframes f{number}{{{first}{begin:.3f}%{{visibility:visible}}"
                      f"{end:.3f}%,100%{{visibility:hidden}}}}"
                      f"#f{number}{{animation:f{number} {total:.1f}s step-end infinite}}")
        body = "".join(row_svg(y, runs) for y, runs in enumerate(rows))
        groups.append(f'<g id="f{number}">{body}</g>')
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" '
            f'font-family="ui-monospace,Menlo,Consolas,monospace" font-size="14">'
            f"<style>g{{visibility:hidden}}#f{len(frames) - 1}{{visibility:visible}}"
            f"{''.join(styles)}</style>"
            f'<rect width="100%" height="100%" rx="8" fill="{BACKGROUND}"/>'
            f"{''.join(groups)}</svg>\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", required=True)
    parser.add_argument("--every", type=float, default=2.0, help="seconds between frames")
    parser.add_argument("--speed", type=float, default=3.0, help="times faster than life")
    parser.add_argument("command", nargs="+")
    args = parser.parse_args()
    frames = []
    for at, rows in follow(args.command, args.every):
        if frames and frames[-1][1] == rows:
            continue
        frames.append((at, rows))
    lasting = []
    for (at, rows), (after, _) in zip(frames, frames[1:]):
        lasting.append(((after - at) / args.speed, rows))
    lasting.append((6.0, frames[-1][1]))
    with open(args.out, "w", encoding="utf-8") as file:
        file.write(svg(lasting))
    print(f"{args.out}: {len(lasting)} frames of {frames[-1][0]:.0f} s")


if __name__ == "__main__":
    main()
