#!/usr/bin/env python3
"""A real guest, recorded, really migrated, and the recording emulated on the same link.

    guest.py [options] image|record|migrate|emulate|table …

image    builds the guest: a kernel's own file and an initramfs with busybox, a key-value store and its load
record   PROGRAM-guest.mbpw    the guest's RAM, page by page, from its boot on (migbed trace record --only-shared -- qemu …)
         PROGRAM-qmp           the same guest through QMP (migbed trace record --qemu: D(t) of calc-dirty-rate)
         PROGRAM-inside.mbpw   the store alone, recorded inside the guest (its kernel must be Linux 6.7 or later)
migrate  a new guest, migrated to and fro between two QEMUs in two network namespaces: runs.jsonl,
         samples.jsonl (query-migrate every 50 ms)
emulate  `migbed migrate` on the same link with each recording and several seeds: emulated.jsonl
table    both side by side, Markdown

Needs: root (namespaces, tc), qemu-system-x86_64, python3, gcc, busybox-static, redis-server, memcached, iproute2, a Debian kernel
(unpacked with dpkg -x, it need not be installed) and /dev/shm with room for the guest. Everything it starts it ends, by its process id;
every wait ends. Nothing is left but the files in --out.
"""
import argparse, gzip, json, math, os, re, shutil, signal, socket, statistics, subprocess, sys, tarfile, tempfile, time
from pathlib import Path

HERE = Path(__file__).resolve().parent
PAGE = 4096
RAM_MIB = 192
# One load each: records, bytes of a value, requests a second, per cent of writes.
LOADS = {"redis": (40000, 1000, 1500, 50), "memcached": (40000, 1000, 1500, 30)}
# tc's TBF counts 14 bytes of Ethernet header over the IP packet.
OVERHEAD = 14
QUEUE = 256 << 10
DOWNTIME_LIMIT_MS = 300
# Page tables that TCG marks (docs/validation.md, from another guest): as logging begins, and all the time, beside a page for 512 of them.
TABLES_ONCE, TABLES_WALKED, MAPPED = 48, 12, 512
CANCEL_AFTER_S = 60
BOOT_LIMIT_S = 240


def run(*command, **more):
    return subprocess.run([str(c) for c in command], check=True, **more)


def text(*command):
    return run(*command, stdout=subprocess.PIPE, text=True).stdout


class Started:
    """Everything started, ended at the end."""

    def __init__(self):
        self.processes, self.namespaces = [], []

    def start(self, *command, **more):
        process = subprocess.Popen([str(c) for c in command], **more)
        self.processes.append(process)
        return process

    def end(self):
        for process in self.processes:
            stop(process)
        for name in self.namespaces:
            subprocess.run(["ip", "netns", "del", name], check=False)


def stop(process, patience=10):
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class Qmp:
    """A QMP socket: commands answered in turn, events kept with their own time stamps."""

    def __init__(self, path, limit=20):
        deadline = time.monotonic() + limit
        while True:
            self.socket = socket.socket(socket.AF_UNIX)
            try:
                self.socket.connect(str(path))
                break
            except OSError:
                self.socket.close()
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
        self.socket.settimeout(20)
        self.buffer, self.events = b"", []
        self.message()
        self.ask("qmp_capabilities")

    def message(self):
        while b"\n" not in self.buffer:
            data = self.socket.recv(65536)
            if not data:
                raise EOFError("QEMU closed its QMP socket")
            self.buffer += data
        line, self.buffer = self.buffer.split(b"\n", 1)
        return json.loads(line)

    def ask(self, command, **arguments):
        request = {"execute": command, "arguments": arguments}
        self.socket.sendall(json.dumps(request).encode() + b"\n")
        while True:
            answer = self.message()
            if "event" in answer:
                self.events.append(answer)
            elif "error" in answer:
                raise RuntimeError(f"{command}: {answer['error']['desc']}")
            else:
                return answer["return"]

    def when(self, event):
        """Time stamps (ms) of an event."""
        stamps = (e["timestamp"] for e in self.events if e["event"] == event)
        return [s["seconds"] * 1000 + s["microseconds"] / 1000 for s in stamps]


class Guest:
    """Files and options of a QEMU."""

    def __init__(self, options, work):
        self.options, self.work, self.count = options, work, 0

    def command(self, program, name, shared=False, record=None, incoming=None, core="0", ram=RAM_MIB):
        records, value, rate, share = LOADS[program]
        words = f"kv.program={program} kv.records={records} kv.value={value} kv.rate={rate} kv.share={share}"
        if record:
            words += f" kv.record={record}"
        memory = f"memory-backend-{'memfd,share=on' if shared else 'ram'},id=ram,size={ram}M"
        command = ["taskset", "-c", core, self.options.qemu]
        for folder in self.options.firmware:
            command += ["-L", folder]
        command += ["-accel", "tcg,tb-size=64", "-m", str(ram), "-smp", "1", "-object", memory, "-machine", "pc,memory-backend=ram",
            "-nodefaults", "-no-user-config", "-display", "none", "-kernel", self.options.kernel,
            "-initrd", self.options.out / "initramfs.gz", "-append", f"console=ttyS0 quiet panic=-1 {words}",
            "-serial", f"file:{self.work / name}.serial", "-serial", f"file:{self.work / name}.out",
            "-qmp", f"unix:{self.work / name}.qmp,server=on,wait=off"]
        if incoming:
            command += ["-incoming", incoming]
        return command

    def serial(self, name):
        path = self.work / f"{name}.serial"
        return path.read_text(errors="replace") if path.exists() else ""

    def wait_for(self, name, words, limit, process):
        deadline = time.monotonic() + limit
        while words not in self.serial(name):
            if process.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"the guest did not say {words!r}:\n{self.serial(name)[-2000:]}")
            time.sleep(0.2)


def libraries(program):
    for line in subprocess.run(["ldd", program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout.splitlines():
        path = re.search(r"(/\S+)", line)
        if path:
            yield Path(path.group(1))


def image(options):
    """The initramfs: busybox, init, the load, the stores and migbed with their libraries."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name in ("bin", "lib", "lib64"):
            (root / name).mkdir()
        shutil.copy(HERE / "init", root / "init")
        busybox = shutil.which("busybox") or sys.exit("busybox-static is missing")
        programs = [busybox, shutil.which("redis-server"), shutil.which("memcached"), options.migbed]
        for program in programs:
            if not program:
                sys.exit("redis-server or memcached is missing")
            # Whatever the file of migbed is called.
            shutil.copy(program, root / "bin" / ("migbed" if program == options.migbed else Path(program).name))
            for library in libraries(program):
                shutil.copy(library.resolve(), root / ("lib64" if library.parent.name == "lib64" else "lib") / library.name)
        for binary in (root / "bin").iterdir():
            if shutil.which("strip"):
                subprocess.run(["strip", binary], check=False)
        run("gcc", "-O2", "-static", "-o", root / "bin" / "kv", HERE / "kv.c", "-lm")
        names = "\n".join(str(path.relative_to(root)) for path in sorted(root.rglob("*")))
        archive = run(busybox, "cpio", "-o", "-H", "newc", cwd=root, input=names.encode(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        (options.out / "initramfs.gz").write_bytes(gzip.compress(archive.stdout, 6))
    print("initramfs:", (options.out / "initramfs.gz").stat().st_size, "bytes")


def record(options, started, work):
    guest = Guest(options, work)
    for program in options.programs:
        title = f"a whole guest of {RAM_MIB} MiB under TCG with {program}: {{}} records of {{}} bytes, {{}} requests/s, {{}} % writes".format(*LOADS[program])
        out = options.out / f"{program}-guest.mbpw"
        if "guest" in options.ways:
            command = guest.command(program, f"{program}-guest", shared=True)
            seconds = options.settle + options.seconds
            print(f"{program}: the guest's RAM from outside, {seconds} s")
            recorder = started.start(options.migbed, "trace", "record", "-o", out, "--title", title, "--only-shared", "--settle", f"{options.settle}s",
                "--duration", f"{seconds}s", "--census", f"{options.settle}s", "--", *command)
            recorder.wait(seconds + 60)
            before = guest.serial(f"{program}-guest").split("kv loaded")
            print("   ", summary(before[-1]) if len(before) > 1 else "NOT LOADED: give --settle more")
        if "qmp" in options.ways:
            name = f"{program}-qmp"
            qemu = started.start(*guest.command(program, name))
            guest.wait_for(name, "kv loaded", BOOT_LIMIT_S, qemu)
            time.sleep(10)
            shutil.rmtree(options.out / name, ignore_errors=True)
            print(f"{program}: through QMP")
            run(options.migbed, "trace", "record", "-o", options.out / name, "--title", title, "--qemu", work / f"{name}.qmp",
                "--sample-pages", "16384", "--repeats", "5", "--windows", "50ms,100ms,200ms,500ms,1s,2s,5s,10s")
            stop(qemu)
        if "inside" in options.ways:
            name = f"{program}-inside"
            qemu = started.start(*guest.command(program, name, record=options.settle + options.seconds, ram=2 * RAM_MIB))
            guest.wait_for(name, "inside done", BOOT_LIMIT_S + options.settle + options.seconds, qemu)
            time.sleep(2)
            stop(qemu)
            with tarfile.open(work / f"{name}.out", "r:gz") as tar:
                for member in tar:
                    if member.isfile():
                        (options.out / Path(member.name).name.replace("inside", name)).write_bytes(tar.extractfile(member).read())
            if not (options.out / f"{name}.mbpw").exists():
                sys.exit(f"nothing was recorded inside:\n{guest.serial(name)[-2000:]}")
            print(f"{program}: inside the guest, of twice the memory: the recorder is in it too")


def summary(serial):
    done = [int(count) / float(took) for took, count in re.findall(r"kv ([\d.]+) (\d+)", serial)]
    return f"{statistics.mean(done):.0f} requests/s served" if done else "no requests served"


def network(started):
    """Two namespaces and one in the middle that shapes both ways."""
    tag = f"mb{os.getpid() % 10000}"
    names = [f"{tag}a", f"{tag}m", f"{tag}b"]
    for name in names:
        run("ip", "netns", "add", name)
        started.namespaces.append(name)
        run("ip", "-n", name, "link", "set", "lo", "up")
    a, middle, b = names
    for end, net in ((a, 1), (b, 2)):
        run("ip", "-n", end, "link", "add", "up0", "type", "veth", "peer", "name", f"to{net}", "netns", middle)
        run("ip", "-n", end, "addr", "add", f"10.99.{net}.2/24", "dev", "up0")
        run("ip", "-n", middle, "addr", "add", f"10.99.{net}.1/24", "dev", f"to{net}")
        # One packet a segment, so that the shaper counts what a wire would carry.
        run("ip", "-n", end, "link", "set", "up0", "up", "gso_max_segs", "1")
        run("ip", "-n", middle, "link", "set", f"to{net}", "up")
        # By the route, since the kernel may not let a namespace choose CUBIC by sysctl.
        run("ip", "-n", end, "route", "add", "default", "via", f"10.99.{net}.1", "congctl", "cubic")
        run("ip", "netns", "exec", end, "sh", "-c", "echo 1 >/proc/sys/net/ipv4/tcp_no_metrics_save")
    run("ip", "netns", "exec", middle, "sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward")
    return a, middle, b


def shape(middle, mbit):
    for net in (1, 2):
        # A burst of 1 ms of the link, as much as the kernel needs; the queue is the child's.
        burst = max(mbit * 125, 3000)
        run("tc", "-n", middle, "qdisc", "replace", "dev", f"to{net}", "root", "tbf", "rate", f"{mbit}mbit", "burst", burst, "limit", QUEUE)


def busy():
    """Time this computer's processors were not idle, s."""
    first = Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    values = [int(value) for value in first]
    return (sum(values[:8]) - values[3] - values[4]) / os.sysconf("SC_CLK_TCK")


def cpu_of(process):
    fields = Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def migrate(options, started, work):
    guest = Guest(options, work)
    a, middle, b = network(started)
    lines, polls = open(options.out / "runs.jsonl", "a"), open(options.out / "samples.jsonl", "a")
    for program in options.programs:
        here, there, net, core = a, b, 2, "0"
        name = f"{program}-0"
        source = started.start("ip", "netns", "exec", here, *guest.command(program, name, core=core))
        guest.wait_for(name, "kv loaded", BOOT_LIMIT_S, source)
        time.sleep(10)
        number = 0
        for repeat in range(options.repeats):
            for mbit in options.rates:
                number += 1
                shape(middle, mbit)
                time.sleep(4)
                target, other = f"{program}-{number}", "1" if core == "0" else "0"
                uri = f"tcp:10.99.{net}.2:7799"
                process = started.start("ip", "netns", "exec", there, *guest.command(program, target, incoming=uri, core=other))
                line = one(Qmp(work / f"{name}.qmp"), Qmp(work / f"{target}.qmp"), uri, source, process)
                line |= {"program": program, "repeat": repeat, "link_mbit": mbit, "ram_mib": RAM_MIB, "downtime_limit_ms": DOWNTIME_LIMIT_MS,
                    "queue_bytes": QUEUE, "overhead_bytes": OVERHEAD, "congestion": "cubic", "return_path": True,
                    "served_before": summary(guest.serial(name)[-400:])}
                samples = line.pop("samples")
                polls.write(json.dumps({"program": program, "repeat": repeat, "link_mbit": mbit,
                    "columns": ["t_ms", "remaining", "transferred", "dirty_sync_count"], "rows": samples}) + "\n")
                polls.flush()
                print(json.dumps({key: line[key] for key in line if key != "query_migrate"}))
                lines.write(json.dumps(line) + "\n")
                lines.flush()
                if line["status"] == "completed":
                    stop(source)
                    source, name, core = process, target, other
                    here, there, net = there, here, 3 - net
                else:
                    stop(process)
        stop(source)


def one(source, destination, uri, from_process, to_process):
    capabilities = [{"capability": name, "state": True} for name in ("return-path", "events")]
    for end in (source, destination):
        end.ask("migrate-set-capabilities", capabilities=capabilities)
    source.ask("migrate-set-parameters", **{"max-bandwidth": 12500000000, "downtime-limit": DOWNTIME_LIMIT_MS})
    source.events.clear()
    cpu = busy(), cpu_of(from_process) + cpu_of(to_process)
    start, begin = time.time() * 1000, time.monotonic()
    source.ask("migrate", uri=uri)
    samples, syncs, rounds = [], 0, []
    cancelled = False
    while True:
        info = source.ask("query-migrate")
        ram = info.get("ram")
        at = round(time.time() * 1000 - start)
        if ram:
            samples.append([at, ram["remaining"], ram["transferred"], ram["dirty-sync-count"]])
        if info["status"] in ("completed", "cancelled", "failed"):
            break
        if not cancelled and time.monotonic() - begin > CANCEL_AFTER_S:
            source.ask("migrate_cancel")
            cancelled = True
        if time.monotonic() - begin > CANCEL_AFTER_S + 30:
            sys.exit("a migration neither ends nor can be cancelled")
        time.sleep(0.05)
    wall = time.monotonic() - begin
    deadline = time.monotonic() + 5
    while info["status"] == "completed" and not destination.when("RESUME") and time.monotonic() < deadline:
        destination.ask("query-status")
        time.sleep(0.02)
    source.ask("query-status")
    stopped, resumed = source.when("STOP"), destination.when("RESUME")
    outage = round(resumed[-1] - stopped[-1], 1) if stopped and resumed else None
    used = cpu_of(from_process) + cpu_of(to_process) - cpu[1]
    last = samples[-1] if samples else [None] * 4
    return {
        "status": "cancelled" if cancelled else info["status"], "total_time_ms": info.get("total-time"), "downtime_ms": info.get("downtime"), "stop_to_resume_ms": outage,
        "ram_transferred": last[2], "dirty_sync_count": last[3], "pass_ms": [round(t - start) for t in source.when("MIGRATION_PASS")],
        "other_cpu_pct": round(100 * (busy() - cpu[0] - used) / wall, 1), "samples": samples, "query_migrate": info,
    }


def emulate(options):
    lines = open(options.out / "emulated.jsonl", "a")
    for program in options.programs:
        forms = [("pages", ["--writes", options.out / f"{program}-guest.mbpw", "--writes-as", "pages"], 0),
            ("fitted", ["--writes", options.out / f"{program}-guest.mbpw", "--writes-as", "fitted"], 0),
            ("qmp", ["--writes", options.out / f"{program}-qmp"], 0)]
        touched = json.loads((options.out / f"{program}-guest.json").read_text())
        pages = touched["totals"]["pages"]
        last = touched["census"][-1]["pages"]
        filled = round(pages * (1 - last["zero"] / last["sampled"]))
        for form, writes, _ in forms:
            if form not in options.forms:
                continue
            written = recorded_pages(options, form, writes[1], program)
            resident = max(filled - written, 0)
            for mbit in options.rates:
                for seed in options.seeds:
                    command = [options.migbed, "migrate", "--json", "--ram", f"{RAM_MIB}MiB", "--resident", f"{resident * PAGE // 1024}KiB", *writes,
                        "--link", f"{mbit}Mbit", "--overhead-bytes", OVERHEAD, "--queue", f"{QUEUE >> 10}KiB", "--congestion", "cubic",
                        "--super-frame", "1us", "--send-buffer-max", "4MiB", "--receive-buffer-max", "32MiB",
                        "--downtime-limit", f"{DOWNTIME_LIMIT_MS}ms", "--reprotect-at-sync", "--load-time", "2ms", "--return-path", "true",
                        "--page-tables", f"{(TABLES_ONCE + pages // MAPPED) * PAGE >> 10}KiB",
                        "--page-tables-walked", f"{(TABLES_WALKED + written // MAPPED) * PAGE >> 10}KiB",
                        "--completion-timeout", f"{CANCEL_AFTER_S}s", "--seed", seed]
                    done = subprocess.run([str(c) for c in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
                    if done.returncode not in (0, 1) or not done.stdout:
                        sys.exit(f"{' '.join(map(str, command))}: {done.returncode}\n{done.stderr[-2000:]}")
                    answer = json.loads(done.stdout)
                    line = {"program": program, "form": form, "link_mbit": mbit, "seed": seed, "resident_pages": resident, **answer}
                    lines.write(json.dumps(line) + "\n")
                    lines.flush()
                    q = answer["query_migrate"]
                    print(program, form, mbit, seed, q["status"], q.get("total-time"), q.get("downtime"), answer["observed_outage_ms"],
                        q["ram"]["transferred"], answer["rounds"], answer["grade"])


def recorded_pages(options, form, path, program):
    """Pages that the form writes or has written, so that the rest of the guest's memory is the same in all of them."""
    if form == "pages":
        return json.loads(text(options.migbed, "trace", "show", path, "--json"))[0]["pages"]
    shown = json.loads(text(options.migbed, "trace", "stats", path, "--json")) if form == "fitted" else None
    if form == "qmp":
        return sum(c["pages"] for c in json.loads(Path(f"{path}.json").read_text())["classes"])
    classes = shown["vms"][0]["pages"]["fit"]["classes"]
    return sum(c["pages"] for c in classes)


def middle(values):
    values = [v for v in values if v is not None]
    if not values:
        return "–"
    return f"{statistics.median(values):.0f} ({min(values):.0f} to {max(values):.0f})"


def table(options):
    real = [json.loads(line) for line in open(options.out / "runs.jsonl")]
    emulated = [json.loads(line) for line in open(options.out / "emulated.jsonl")]
    print("| guest | Mbit/s | | n | completed | total ms | MiB | syncs | reported downtime ms | outage ms |\n|---|---|---|---|---|---|---|---|---|---|")
    for program in options.programs:
        for mbit in options.rates:
            rows = [r for r in real if (r["program"], r["link_mbit"]) == (program, mbit)]
            row(program, mbit, "real", [(r["status"], r["total_time_ms"], r["ram_transferred"], r["dirty_sync_count"], r["downtime_ms"], r["stop_to_resume_ms"]) for r in rows])
            for form in ("pages", "fitted", "qmp"):
                rows = [r for r in emulated if (r["program"], r["link_mbit"], r["form"]) == (program, mbit, form)]
                values = [(r["query_migrate"]["status"], r["query_migrate"].get("total-time"), r["query_migrate"]["ram"]["transferred"],
                    r["query_migrate"]["ram"]["dirty-sync-count"], r["query_migrate"].get("downtime"), r["observed_outage_ms"]) for r in rows]
                row(program, mbit, f"emulated, {form}", values)


def row(program, mbit, name, values):
    if not values:
        return
    done = [v for v in values if v[0] == "completed"]
    mib = [v[2] / (1 << 20) for v in done]
    print(f"| {program} | {mbit} | {name} | {len(values)} | {len(done)} | {middle([v[1] for v in done])} | {middle(mib)} | {middle([v[3] for v in done])} | {middle([v[4] for v in done])} | {middle([v[5] for v in done])} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("steps", nargs="+", choices=["image", "record", "migrate", "emulate", "table"])
    parser.add_argument("-m", "--migbed", default=shutil.which("migbed"))
    parser.add_argument("-q", "--qemu", default=shutil.which("qemu-system-x86_64"))
    parser.add_argument("-L", "--firmware", action="append", default=[], help="folder of QEMU's firmware, for a QEMU that is not installed")
    parser.add_argument("-k", "--kernel", help="the guest's vmlinuz")
    parser.add_argument("-o", "--out", type=Path, default=Path("guest"))
    parser.add_argument("--programs", default="redis,memcached")
    parser.add_argument("--rates", default="200,100,75", help="Mbit/s")
    parser.add_argument("--repeats", type=int, default=4)
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--settle", type=int, default=40, help="seconds a guest has to boot and load")
    parser.add_argument("--seconds", type=int, default=60, help="seconds recorded after that")
    parser.add_argument("--ways", default="guest,qmp", help="of guest,qmp,inside")
    parser.add_argument("--forms", default="pages,fitted,qmp")
    options = parser.parse_args()
    for name in ("programs", "rates", "seeds", "ways", "forms"):
        setattr(options, name, getattr(options, name).split(","))
    options.rates = [int(rate) for rate in options.rates]
    options.out.mkdir(parents=True, exist_ok=True)
    started = Started()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory() as folder:
        try:
            for step in options.steps:
                {"image": lambda: image(options), "record": lambda: record(options, started, Path(folder)), "migrate": lambda: migrate(options, started, Path(folder)),
                    "emulate": lambda: emulate(options), "table": lambda: table(options)}[step]()
        finally:
            started.end()


if __name__ == "__main__":
    main()
