#!/usr/bin/env python3
"""Real QEMU migrations of a guest that dirties its memory at a pinned rate, for `migbed validate qemu`.

    dirtier.py -k vmlinuz [-q qemu-system-x86_64] [-L FIRMWARE] [--repeats N] [--only IDS] CONFIGURATIONS.json RUNS.jsonl

Each configuration is migrated once a repeat, between two QEMUs (TCG) in network namespaces, and adds a line to RUNS.jsonl: the
configuration and what QEMU made of it, in the columns of docs/validation.md. Its keys: config_id, ram_mib, resident_mib, ws_mib, rate_pps,
pattern (uniform, seq, hotcold), content (random, comp, word), on_ms, off_ms, link_mbit, downtime_limit_ms, mode (precopy, multifd, postcopy,
xbzrle, auto-converge), multifd_channels, multifd_compression, xbzrle_cache_mib, cancel_after_s, and shaper_at: `source-egress` (TBF on the
source's device, BBR, no return path) or `fabric` (TBF in a namespace in the middle, both ways, CUBIC, one segment a packet, return path).

Needs: root (namespaces, tc), QEMU 9.0 or later (earlier ones lose pages under TCG), gcc with a static libc, iproute2 and a Debian kernel for
clouds (serial line and initramfs built in; unpacked with dpkg -x, it need not be installed). Everything it starts it ends, by its process
id; every wait ends. Run it on a calm machine: a migrating QEMU and its guest want most of two processors.
"""
import argparse, gzip, json, os, re, signal, subprocess, sys, tempfile, time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "guest"))
from guest import Qmp, Started, busy, cpu_of, network, run  # noqa: E402

PATTERNS = {"uniform": 0, "seq": 1, "hotcold": 2}
CONTENTS = {"random": 0, "comp": 1, "word": 2}
CAPABILITIES = {"precopy": [], "multifd": ["multifd"], "postcopy": ["postcopy-ram"], "xbzrle": ["xbzrle"], "auto-converge": ["auto-converge"]}
PORT = 7799
BOOT_LIMIT_S = 120
# TBF's queue at the source, as a time of the rate; in the middle, bytes for every Mbit/s (20 ms).
LATENCY_MS, QUEUE_A_MBIT = 50, 2500


def archive():
    """An initramfs with the dirtier in it."""
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "init"
        run("gcc", "-O2", "-static", "-o", program, HERE / "dirtier.c")
        code = program.read_bytes()
    out = b""
    for number, (name, mode, data) in enumerate([("proc", 0o40755, b""), ("dev", 0o40755, b""), ("init", 0o100755, code), ("TRAILER!!!", 0, b"")], 1):
        fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
        head = b"070701" + b"".join(b"%08x" % field for field in fields) + name.encode() + b"\0"
        out += head + b"\0" * (-len(head) % 4) + data + b"\0" * (-len(data) % 4)
    return gzip.compress(out)


def at_source(started, mbit):
    """Two namespaces, the first one's device shaped: where the source is, where the destination, its address, columns."""
    names = [f"md{os.getpid() % 10000}{end}" for end in "ab"]
    for name in names:
        run("ip", "netns", "add", name)
        started.namespaces.append(name)
        run("ip", "-n", name, "link", "set", "lo", "up")
    here, there = names
    run("ip", "-n", here, "link", "add", "up0", "type", "veth", "peer", "name", "up0", "netns", there)
    for number, name in enumerate(names, 2):
        run("ip", "-n", name, "addr", "add", f"10.99.1.{number}/24", "dev", "up0")
        run("ip", "-n", name, "link", "set", "up0", "up")
    run("ip", "-n", here, "route", "replace", "10.99.1.0/24", "dev", "up0", "congctl", "bbr")
    burst = max(32768, mbit * 250)
    run("tc", "-n", here, "qdisc", "add", "dev", "up0", "root", "tbf", "rate", f"{mbit}mbit", "burst", burst, "latency", f"{LATENCY_MS}ms")
    return here, there, "10.99.1.3", {"set": "A", "shaper_at": "source-egress", "overhead_bytes": 14, "burst_bytes": burst,
        "queue_bytes": burst + mbit * 125 * LATENCY_MS, "congestion": "bbr", "return_path": False}


def in_the_middle(started, mbit):
    here, middle, there = network(started)
    queue = mbit * QUEUE_A_MBIT
    for net in (1, 2):
        run("tc", "-n", middle, "qdisc", "replace", "dev", f"to{net}", "root", "tbf", "rate", f"{mbit}mbit", "burst", max(mbit * 125, 3000), "limit", queue)
    # One segment a packet, which validate reads from what a shaper counted.
    counted = {"segments_in": 1, "packets_out": 1, "dropped": 0, "lost": 0}
    return here, there, "10.99.2.2", {"set": "B", "kind": "plain", "overhead_bytes": 14, "queue_bytes_used": queue, "congestion": "cubic",
        "return_path": True, "shaper": {"ab": counted}}


def reports(path):
    """What the guest said: ms, writes, distinct pages, bad pages of each second."""
    said = path.read_text(errors="replace") if path.exists() else ""
    return [[int(word) for word in line] for line in re.findall(r"report (\d+) (\d+) (\d+) (\d+)", said)]


def migrate(options, given, repeat, started, work):
    here, there, address, columns = (at_source if given["shaper_at"] == "source-egress" else in_the_middle)(started, given["link_mbit"])
    # Where a kernel that moves itself leaves its packed self behind differs from boot to boot.
    words = f"console=ttyS0 quiet panic=-1 nokaslr d.ws={given['ws_mib'] * 256} d.res={given['resident_mib'] * 256} d.rate={given['rate_pps']} " \
        f"d.pattern={PATTERNS[given['pattern']]} d.content={CONTENTS[given['content']]} d.on={given['on_ms']} d.off={given['off_ms']} d.seed={repeat + 1}"

    def qemu(name, netns, *more):
        command = ["ip", "netns", "exec", netns, options.qemu]
        for folder in options.firmware:
            command += ["-L", folder]
        command += ["-accel", "tcg", "-m", given["ram_mib"], "-smp", 1, "-display", "none", "-nodefaults", "-no-user-config", "-no-reboot",
            "-kernel", options.kernel, "-initrd", work / "initramfs.gz", "-append", words, "-serial", f"file:{work / name}.serial",
            "-qmp", f"unix:{work / name}.qmp,server=on,wait=off", *more]
        return started.start(*command)

    from_process = qemu("source", here)
    deadline, serial = time.monotonic() + BOOT_LIMIT_S, work / "source.serial"
    while len(reports(serial)) < 4:
        if from_process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"the guest does not report: {serial.read_text(errors='replace')[-500:] if serial.exists() else ''}")
        time.sleep(0.2)
    to_process = qemu("destination", there, "-incoming", "defer")
    source, destination = Qmp(work / "source.qmp"), Qmp(work / "destination.qmp")
    names = ["events"] + ["return-path"] * columns["return_path"] + CAPABILITIES[given["mode"]]
    parameters = {"max-bandwidth": 12500000000, "downtime-limit": given["downtime_limit_ms"]}
    if given["mode"] == "multifd":
        parameters |= {"multifd-channels": given["multifd_channels"], "multifd-compression": given.get("multifd_compression", "none")}
    if given["mode"] == "xbzrle":
        parameters |= {"xbzrle-cache-size": given["xbzrle_cache_mib"] << 20}
    for end in (source, destination):
        end.ask("migrate-set-capabilities", capabilities=[{"capability": name, "state": True} for name in names])
        end.ask("migrate-set-parameters", **parameters)
    uri = f"tcp:{address}:{PORT}"
    destination.ask("migrate-incoming", uri=uri)
    time.sleep(0.5)
    before = reports(serial)[-3:]
    spent, cpu, begin, began_ms = busy(), cpu_of(from_process) + cpu_of(to_process), time.monotonic(), time.time() * 1000
    source.ask("migrate", uri=uri)
    switched = False
    while True:
        info = source.ask("query-migrate")
        if info["status"] in ("completed", "cancelled", "failed"):
            break
        if given["mode"] == "postcopy" and not switched and info.get("ram", {}).get("dirty-sync-count", 0) >= 2:
            source.ask("migrate-start-postcopy")
            switched = True
        if time.monotonic() - begin > given["cancel_after_s"]:
            source.ask("migrate_cancel")
            info["status"] = "cancelled"
            break
        time.sleep(0.1)
    wall = time.monotonic() - begin
    qemus = cpu_of(from_process) + cpu_of(to_process) - cpu
    others = busy() - spent - qemus
    time.sleep(2)
    for end in (source, destination):
        end.ask("query-status")
    stopped, resumed, ram = source.when("STOP"), destination.when("RESUME"), info.get("ram", {})
    completed = info["status"] == "completed"
    after = reports(work / "destination.serial")
    return given | columns | {
        "run_id": f"{given['config_id']}-{repeat}", "repeat": repeat, "qemu": source.ask("query-version")["qemu"], "status": info["status"],
        "total_time_ms": info.get("total-time"), "downtime_ms": info.get("downtime"), "stop_to_resume_ms": round(resumed[-1] - stopped[-1], 1) if completed and stopped and resumed else None,
        "ram_total": ram.get("total"), "ram_transferred": ram.get("transferred"), "ram_normal": ram.get("normal"), "ram_duplicate": ram.get("duplicate"),
        "ram_dirty_sync_count": ram.get("dirty-sync-count"), "ram_postcopy_requests": ram.get("postcopy-requests"), "ram_downtime_bytes": ram.get("downtime-bytes"),
        "xbzrle_cache": info.get("xbzrle-cache"), "pass_ms": [round(t - began_ms, 1) for t in source.when("MIGRATION_PASS")],
        "guest_writes_pps_before": sum(line[1] for line in before) / len(before), "guest_distinct_pps_before": sum(line[2] for line in before) / len(before),
        "guest_bad_pages_after": after[-1][3] if after else None, "qemu_cpu_pct": round(100 * qemus / wall), "other_cpu_pct": round(100 * others / wall),
        # Kernel work for the network is among the others where the shaper is in the middle.
        "disturbed": others / wall > (0.25 if columns["set"] == "A" else 1.1),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("configurations", type=Path)
    parser.add_argument("runs", type=Path)
    parser.add_argument("-k", "--kernel", required=True, help="the guest's vmlinuz")
    parser.add_argument("-q", "--qemu", default="qemu-system-x86_64")
    parser.add_argument("-L", "--firmware", action="append", default=[], help="folder of QEMU's firmware, for a QEMU that is not installed")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--only", default="", help="only these configurations, by config_id")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    chosen = [one for one in json.loads(options.configurations.read_text()) if not options.only or one["config_id"] in options.only.split(",")]
    initramfs, failed = archive(), False
    with open(options.runs, "a") as runs:
        for repeat in range(options.repeats):
            for given in chosen:
                started = Started()
                with tempfile.TemporaryDirectory() as folder:
                    (Path(folder) / "initramfs.gz").write_bytes(initramfs)
                    try:
                        line = migrate(options, given, repeat, started, Path(folder))
                        runs.write(json.dumps(line) + "\n")
                        runs.flush()
                        print(" ".join(f"{key}={line[key]}" for key in ("run_id", "status", "total_time_ms", "ram_transferred", "stop_to_resume_ms",
                            "ram_dirty_sync_count", "guest_bad_pages_after", "qemu_cpu_pct", "other_cpu_pct")), flush=True)
                    # One that does not start does not take the others with it.
                    except (RuntimeError, OSError, EOFError, subprocess.CalledProcessError) as error:
                        print(f"{given['config_id']}-{repeat}: {error}", file=sys.stderr, flush=True)
                        failed = True
                    finally:
                        started.end()
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
