"""Which combinations are measured: not the full product, but every value of every dimension beside the ones that matter most."""

TENSORS = ["3KiB", "147KiB", "588KiB"]
OTHERS = ["rows-32", "jpeg-224", "jpeg-1080p"]
ALL_WAYS = ["direct", "off", "observe", "enforce", "envoy", "nginx"]
ONE_WORKER = ["direct", "off-1", "enforce-1", "envoy-1", "nginx-1"]
BY_SOCKET = ["direct-unix", "off-unix", "enforce-unix", "envoy-unix", "nginx-unix"]
REPLAYED = ["direct", "unheld", "envoy"]

# More than a session remembers: 128 anchors and 1,024 ghosts, and some.
FULL = 1300
# Calls at once, and the connections that they share.
CONNECTIONS = {1: 1, 8: 4, 64: 8}


def cell(group, payload, concurrency, ways, copies=0.0, rounds=8, slice_ms=300, model=None, warm_up=FULL, pool=None):
    rows = int(payload.removeprefix("rows-")) if payload.startswith("rows-") else 1
    warm_up = 64 if payload == "jpeg-1080p" else max(warm_up // rows, 8)
    return {
        "name": f"{group} | {payload} | {concurrency} | {copies:.0%}",
        "group": group,
        "payload": payload,
        "concurrency": concurrency,
        "connections": CONNECTIONS[concurrency],
        "copies": copies,
        "ways": ways,
        "rounds": rounds,
        "slice_ms": slice_ms,
        "calls": None,
        "pool": pool,
        "model": model,
        "warm_up": warm_up,
    }


def quick():
    """Three payloads, one call and eight at once, over TCP, nothing replayed."""
    return [cell("TCP", payload, at_once, ALL_WAYS, rounds=6, slice_ms=250) for payload in TENSORS for at_once in (1, 8)]


def full():
    """By payload, since pictures are made once for each; near-copies last, since what they hit stays remembered."""
    cells = []
    for payload in TENSORS:
        cells += [cell("TCP", payload, at_once, ALL_WAYS) for at_once in (1, 8, 64)]
        cells += [cell("one worker", payload, at_once, ONE_WORKER, rounds=5) for at_once in (1, 8, 64)]
        cells += [cell("UNIX socket", payload, at_once, BY_SOCKET, rounds=5) for at_once in (1, 8)]
        # So many of the small ones are answered that the usual pool would come round again while its pictures are remembered.
        pool = 8192 if payload == "3KiB" else None
        cells += [cell("near-copies, unheld", payload, 8, REPLAYED, copies, rounds=5, pool=pool) for copies in (0.5, 0.95)]
    for payload in OTHERS:
        # Of the largest 64 at once would be more than Refrain lets one caller decode.
        slice_ms, most = (600, 8) if payload == "jpeg-1080p" else (300, 64)
        cells += [cell("TCP", payload, at_once, ALL_WAYS, rounds=5, slice_ms=slice_ms) for at_once in (1, 8, 64) if at_once <= most]
    return cells


def triton():
    """A real model server: one cheap model, and one of some 10 ms, all or nearly all of whose calls are replayed."""
    ways = ["triton", "triton-off", "triton-enforce", "triton-envoy", "triton-nginx"]
    cells = [cell("Triton", "3KiB", at_once, ways, rounds=5, slice_ms=500, model="clf_u8") for at_once in (1, 8)]
    ways = ["triton", "triton-unheld", "triton-envoy"]
    cells += [
        cell("Triton, 10 ms model, unheld", "3KiB", 8, ways, copies, rounds=4, slice_ms=1000, model="heavy_u8", warm_up=40)
        for copies in (0.0, 0.5, 0.95)
    ]
    return cells
