"""Emulated counts: what is read from the plugin's files, what is made of it, and what is said where a tool lacks."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from sepcompile.bench.emulate import cores, counts, loops, main, mca, store, sysroot, table, tools, xnnpack
from sepcompile.bench.emulate.loops import Figures, Loop, Modelled
from sepcompile.bench.emulate.report import PROXY, EmulationReport, Row, Side, write_json
from sepcompile.bench.errors import BenchError
from sepcompile.bench.layers import BenchLayer
from sepcompile.bench.options import BenchOptions
from sepcompile.cli import main as command
from sepcompile.targets import get_target

LOOP_TEXT = (
    "ldp\tq0, q1, [x1], #32",
    "ldr\td2, [x0], #8",
    "fmla\tv16.4s, v0.4s, v2.s[0]",
    "fmla\tv17.4s, v1.4s, v2.s[0]",
    "fmla\tv18.4s, v0.4s, v2.s[1]",
    "fmla\tv19.4s, v1.4s, v2.s[1]",
    "subs\tx2, x2, #1",
    "b.ne\t#-28",
)


def block(address: int, count: int, *words: str, l1: int = 0, l2: int = 0) -> counts.Block:
    return counts.Block(address, count, l1, l2, tuple(map(bytes.fromhex, words)))


# ---- the plugin's files ----------------------------------------------------------------------------------------------


def test_a_block_that_was_translated_twice_is_one() -> None:
    lines = ["2000 5 1 0 1f2003d5", "1000 3 2 1 1f2003d5 1f2003d5", "1000 4 1 1 1f2003d5 1f2003d5"]
    first, second = counts.parse_counts(lines)
    assert first == block(0x1000, 7, "1f2003d5", "1f2003d5", l1=3, l2=2)
    assert first.instructions == 14 and first.end == 0x1008
    assert second.address == 0x2000


@pytest.mark.parametrize("line", ["", "1000", "1000 x 0 0 1f2003d5", "1000 1 0 0 zz"])
def test_other_text_is_refused(tmp_path: Path, line: str) -> None:
    file = tmp_path / "counts.0"
    file.write_text(line + "\n")
    with pytest.raises(BenchError, match="no counts of the plugin"):
        counts.read_counts(file)
    with pytest.raises(BenchError, match="no counts of the plugin"):
        counts.read_counts(tmp_path / "absent")


def test_a_loop_that_a_page_cuts_is_whole_again() -> None:
    head, tail = block(0xFF8, 9, "1f2003d5", "1f2003d5", l1=1), block(0x1000, 9, "1f2003d5", l1=2)
    other = block(0x1004, 8, "1f2003d5")
    whole, rest = counts.joined([head, tail, other])
    assert (whole.address, whole.count, len(whole.code), whole.l1_misses) == (0xFF8, 9, 3, 3)
    assert rest == other
    assert sum(b.instructions for b in (whole, rest)) == sum(b.instructions for b in (head, tail, other))


def test_a_long_block_is_whole_again_where_another_starts_inside_it() -> None:
    """qemu cuts straight code after some 90 instructions; a loop that enters it elsewhere is cut elsewhere."""
    first, second = block(0x1000, 9, "1f2003d5", "1f2003d5"), block(0x1008, 9, "1f2003d5")
    inside = block(0x1004, 4, "1f2003d5", "1f2003d5")
    whole, entered = counts.joined([first, inside, second])
    assert (whole.count, len(whole.code)) == (9, 3) and entered == inside


def test_ranges_come_from_the_memory_map() -> None:
    maps = (
        "5500000000-5500003000 r-xp 00000000 08:01 12 /w/lib/aarch64/layer.so\n"
        "5500003000-5500004000 r--p 00003000 08:01 12 /w/lib/aarch64/layer.so\n"
        "5500004000-5500005000 rw-p 00000000 00:00 0\n"
        "5500010000-5500020000 r-xp 00000000 08:01 13 /lib/libc.so.6\n"
    )
    ranges = counts.mapped_ranges(maps, ["layer.so"])
    assert ranges == [(0x5500000000, 0x5500003000), (0x5500003000, 0x5500004000)]
    inside, outside = block(0x5500002FFC, 1, "1f2003d5"), block(0x5500010000, 1, "1f2003d5")
    assert counts.within([inside, outside], ranges) == [inside]


# ---- loops -----------------------------------------------------------------------------------------------------------


def modelled(text: tuple[str, ...], count: int = 1, cycles: float = 4.0) -> Modelled:
    return Modelled(counts.Block(0, count, 0, 0, (b"\0\0\0\0",) * len(text)), text, {"cortex-a72": cycles})


@pytest.mark.parametrize(
    ("text", "multiply_adds", "kind"),
    [
        (LOOP_TEXT, 4, "pointwise"),
        (("fmla\tv0.4s, v1.4s, v2.4s", "fmul\tv0.4s, v1.4s, v2.4s"), 1, "depthwise"),
        (("vmla.f32\tq8, q0, d4[1]",), 1, "pointwise"),
        (("vfma.f32\tq8, q0, q1",), 1, "depthwise"),
        (("vfmadd231ps\t(%rax){1to16}, %zmm0, %zmm1",), 1, "pointwise"),
        (("vbroadcastss\t(%rax), %ymm0", *["vfmadd231ps\t%ymm0, %ymm1, %ymm2"] * 4), 4, "pointwise"),
        (("vfmadd213ps\t(%rax), %ymm0, %ymm1",), 1, "depthwise"),
        (("fmadd\ts0, s1, s2, s3", "ldr\tq0, [x0]"), 0, ""),
    ],
)
def test_the_stage_of_a_block(text: tuple[str, ...], multiply_adds: int, kind: str) -> None:
    found = modelled(text)
    assert (found.multiply_adds, found.kind) == (multiply_adds, kind)


@pytest.mark.parametrize("line", ["b.ne\t#-28", "cbnz\tx0, #4", "ret", "bl\t#8", "bne\t#-8", "blx\tr3", "jne", "retq"])
def test_branches(line: str) -> None:
    assert mca.is_branch(line)


@pytest.mark.parametrize("line", ["bic\tx0, x1, x2", "bsl\tv0.16b, v1.16b, v2.16b", "bfi\tx0, x1, #1, #2", ""])
def test_other_instructions_are_no_branches(line: str) -> None:
    assert not mca.is_branch(line)


def test_a_loop_is_told_from_the_way_into_it() -> None:
    assert modelled(LOOP_TEXT).repeats  # 8 instructions of 4 bytes, back by 28
    assert not modelled(("str\tq0, [sp]", *LOOP_TEXT)).repeats
    assert not modelled(LOOP_TEXT[:-1]).repeats


def test_spills_and_peak_of_a_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    spilling = (*LOOP_TEXT[:-1], "str\tq3, [sp, #16]", "ldr\tx9, [sp]", "b.ne\t#-36")
    texts = {0x1000: spilling, 0x2000: ("fmla\tv0.4s, v1.4s, v2.4s",), 0x3000: ("str\tq0, [x0]",)}
    monkeypatch.setattr(mca, "disassemble", lambda code, arch: [texts[b.address] for b in blocks])
    monkeypatch.setattr(mca, "block_cycles", lambda found, model, arch: [5.0, 4.0, 1.0])
    blocks = [
        counts.Block(0x1000, 100, 7, 3, (b"\0" * 4,) * len(spilling)),
        counts.Block(0x2000, 50, 0, 1, (b"\0" * 4,)),
        counts.Block(0x3000, 10, 0, 0, (b"\0" * 4,)),
    ]
    found = loops.figures_of(blocks, ("cortex-a72", "neoverse-n1"), "aarch64")
    assert found.instructions == 100 * len(spilling) + 50 + 10
    assert (found.l1_misses, found.l2_misses) == (7, 4)
    assert found.cycles == {"cortex-a72": 710.0, "neoverse-n1": 710.0}
    pointwise, depthwise = found.loops
    assert (pointwise.kind, pointwise.stack_accesses, pointwise.stack_stores) == ("pointwise", 2, 1)
    assert pointwise.peak_percent == {"cortex-a72": 80.0, "neoverse-n1": 40.0}
    assert (depthwise.kind, depthwise.stack_accesses) == ("depthwise", 0)
    assert depthwise.peak_percent["cortex-a72"] == 25.0


needs_llvm = pytest.mark.skipif(
    not any(shutil.which(f"llvm-mca-{v}") for v in tools.LLVM_VERSIONS) and not shutil.which("llvm-mca"),
    reason="llvm-mca is not installed (Debian: llvm-19)",
)


@needs_llvm
def test_disassembly_keeps_blocks_apart_and_survives_what_it_does_not_know() -> None:
    first = (bytes.fromhex("410c204e"), bytes.fromhex("ffffffff"), bytes.fromhex("1f2003d5"))
    texts = mca.disassemble([first, (), (bytes.fromhex("c0035fd6"),)], "aarch64")
    assert [len(text) for text in texts] == [3, 0, 1]
    assert texts[0][1] == "" and texts[0][2] == "nop" and texts[2] == ("ret",)


@needs_llvm
@pytest.mark.parametrize(("cpu", "multiply_adds_a_cycle"), [("cortex-a72", 1), ("neoverse-n1", 2)])
def test_modelled_cycles_of_a_register_tile(cpu: str, multiply_adds_a_cycle: int) -> None:
    """16 independent sums: the multiply-add unit is the limit, and the models hold as many as their cores."""
    tile = tuple(f"fmla\tv{i}.4s, v30.4s, v31.s[{i % 4}]" for i in range(16))
    alone, chained, nothing = mca.block_cycles([(*tile, "b.ne\t#-64"), ("fmla\tv0.4s, v1.4s, v2.4s",), ("ret",)],
                                               cpu, "aarch64")  # fmt: skip
    assert alone == pytest.approx(16 / multiply_adds_a_cycle, rel=0.05)
    assert chained >= 3  # a sum waits for the one before
    assert nothing == 1


# ---- cores -----------------------------------------------------------------------------------------------------------


def test_cores_take_their_geometry_from_the_target() -> None:
    core = cores.core_of(get_target("cortex-a72"))
    machine = get_target("cortex-a72").machine
    assert core.l1 == (machine.l1_bytes, 2) and core.l2 == (machine.l2_bytes, 16)
    assert core.models == ("cortex-a72", "neoverse-n1") and core.cpu == "cortex-a72"
    assert core.plugin_options == "l1=32768,w1=2,l2=1048576,w2=16,line=64"
    assert cores.core_of(get_target("cortex-a76")).models[0] == "neoverse-n1"


@pytest.mark.parametrize("name", ["cortex-a53", "cortex-a55", "cortex-a7"])
def test_cores_in_order_have_no_modelled_cycles(name: str) -> None:
    assert cores.core_of(get_target(name)).models == ()


def test_a_gpu_cannot_be_emulated() -> None:
    with pytest.raises(BenchError, match=r"cuda-sm_90.*cannot be emulated.*aarch64"):
        cores.core_of(get_target("cuda-sm_90"))


def test_the_identity_names_the_part_and_the_caches(tmp_path: Path) -> None:
    core = cores.core_of(get_target("cortex-a76"))
    cores.write_identity(core, tmp_path)
    info = (tmp_path / "proc/cpuinfo").read_text()
    assert "CPU part\t: 0xd0b" in info and "asimddp" in info and info.count("processor") == 1
    cache = tmp_path / "sys/devices/system/cpu/cpu0/cache/index2"
    assert (cache / "size").read_text() == f"{core.l2[0] // 1024}K\n"
    sets, ways = int((cache / "number_of_sets").read_text()), int((cache / "ways_of_associativity").read_text())
    assert sets * ways * cores.LINE_BYTES == core.l2[0]


# ---- what lacks ------------------------------------------------------------------------------------------------------


def without(monkeypatch: pytest.MonkeyPatch, *missing: str) -> None:
    found = shutil.which
    monkeypatch.setattr(tools.shutil, "which", lambda name: None if name.startswith(missing) else found(name) or name)


@pytest.mark.parametrize(
    ("missing", "package"), [("qemu-aarch64", "qemu-user"), ("llvm-mca", "llvm-19"), ("llvm-mc", "llvm-19")]
)
def test_a_missing_program_is_named_with_its_package(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, missing: str, package: str
) -> None:
    without(monkeypatch, missing)
    with pytest.raises(BenchError, match=rf"{missing}.*not found.*package {package}"):
        main.run(BenchOptions(target="cortex-a72", only=("kws_dscnn",)), tmp_path)


def test_a_missing_sysroot_says_how_to_make_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    without(monkeypatch, "nothing")
    with pytest.raises(BenchError, match=r"no arm64 sysroot in .*make arm-sysroot"):
        main.run(BenchOptions(target="cortex-a72", only=("kws_dscnn",)), tmp_path)
    with pytest.raises(BenchError, match="no armhf sysroot"):
        sysroot.find(tmp_path, "armhf")


def test_a_qemu_without_plugins_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake = tmp_path / "qemu-aarch64"
    fake.write_text("#!/bin/sh\necho \"qemu: unknown option 'plugin'\" >&2\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setattr(tools, "qemu", lambda core: str(fake))
    core = cores.core_of(get_target("cortex-a72"))
    with pytest.raises(BenchError, match="takes no plugin of API version 1"):
        tools.run_counted(core, tmp_path / "p.so", tmp_path / "out", ["true"], {})


def test_a_failing_download_leaves_no_sysroot(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BenchError, match=r"apt-get is not found; on Debian it is in the package apt"):
        sysroot.make(tmp_path / "arm", "arm64")
    with pytest.raises(BenchError, match="make arm-sysroot"):
        sysroot.find(tmp_path / "arm", "arm64")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--emulate", "--html", "x.html"), "--html and --report are pages of times"),
        (("--sysroot", "x"), "--sysroot is for --emulate"),
        (("--emulate", "--target", "cortex-z9"), "target='cortex-z9' is unknown"),
        (("--emulate", "--target", "cuda-sm_90"), "cannot be emulated"),
        (("--emulate", "--target", "cortex-a72", "--peer", "ncnn"), "peer ncnn cannot be counted"),
        (("--emulate", "--target", "cortex-a72", "--sysroot", "nowhere"), "make arm-sysroot"),
    ],
)
def test_mistakes_on_the_command_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    without(monkeypatch, "nothing")
    with pytest.raises(SystemExit) as exit_:
        command(["bench", *arguments])
    assert exit_.value.code not in (0, None)
    assert message in " ".join(capsys.readouterr().err.split())


# ---- a crash of the guest --------------------------------------------------------------------------------------------


def test_after_a_crash_the_guest_goes_on_behind_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("a", "b", "c")]
    for folder in folders:
        folder.mkdir()
        (folder / "model0.tflite").touch()
    started: list[list[str]] = []

    def run_counted(core: object, plugin: object, out: object, words: list[str], env: object) -> tuple[str, str]:
        jobs = json.loads(Path(words[-1]).read_text())
        started.append([Path(job["model"]).parent.name for job in jobs])
        crashed = next((i for i, job in enumerate(jobs) if "/b/" in job["model"]), None)
        return "done\n" * (len(jobs) if crashed is None else crashed), "" if crashed is None else "status -11"

    monkeypatch.setattr(tools, "run_counted", run_counted)
    monkeypatch.setattr(xnnpack, "_result", lambda folder, job, counted: ([], folder.name))
    root = sysroot.Sysroot("arm64", tmp_path, tmp_path, tmp_path)
    (tmp_path / "usr/bin").mkdir(parents=True)
    (tmp_path / "usr/bin/python3.11").touch()
    core = cores.core_of(get_target("cortex-a72"))
    found = xnnpack.Guest(core, tmp_path / "p.so", tmp_path / "m.so", root, tmp_path).run(folders)
    assert started == [["a", "b", "c"], ["c"]]
    assert found[folders[0]] == [([], "a")] and found[folders[2]] == [([], "c")]
    assert str(found[folders[1]]) == "status -11"


def test_kept_figures_come_back_under_the_same_key_only(tmp_path: Path) -> None:
    side = Side("ok", "", 1e-7, figures(80, 50.0, 3))
    key = store.key_of(layer={"name": "a"}, core=("cortex-a72", 1))
    assert store.read(tmp_path, key) is None
    store.write(tmp_path, key, side)
    assert store.read(tmp_path, key) == side
    assert store.read(tmp_path, store.key_of(layer={"name": "a"}, core=("cortex-a76", 1))) is None
    (tmp_path / store.FILE).write_text("{}")
    assert store.read(tmp_path, key) is None


# ---- the report ------------------------------------------------------------------------------------------------------


def figures(instructions: int, cycles: float, l2: int) -> Figures:
    loop = Loop("pointwise", {"cortex-a72": 98.0}, 3, 0.9)
    return Figures(instructions, 10 * l2, l2, {"cortex-a72": cycles}, (loop,))


def report(models: tuple[str, ...] = ("cortex-a72",)) -> EmulationReport:
    def side(*values: float) -> Side:
        return Side("ok", "", 1e-7, figures(int(values[0]), values[1], int(values[2])))

    rows = (
        Row("good", 100, 1000, side(80, 50, 0), side(100, 100, 0)),
        Row("bad", 100, 1000, side(200, 200, 90), side(100, 100, 40)),
        Row("lost", 100, 1000, Side("wrong", "its output is off", 1.0), Side("failed", "status -11")),
    )
    return EmulationReport("2026-01-01", "dev", "cortex-a72", "cortex-a72", (32768, 2), (1 << 20, 16), models, {},
                           "LiteRT 2.3.0 with XNNPACK", rows)  # fmt: skip


def test_ratios_and_their_means() -> None:
    good, bad, lost = report().rows
    ratios = good.ratios(("cortex-a72",))
    assert ratios["instructions"] == 0.8 and ratios["cortex-a72"] == 0.5
    assert ratios["L2 misses"] == 1.0  # none on either side
    assert bad.ratios(("cortex-a72",))["L2 misses"] == 2.0  # (90 + 10) / (40 + 10): 1 % of the footprint on both
    assert set(lost.ratios(("cortex-a72",)).values()) == {None}
    means = report().geomeans()
    assert means["instructions"] == pytest.approx((0.8 * 2) ** 0.5)
    assert report().wrong() == ["lost"]


def test_the_json_says_what_it_is_not(tmp_path: Path) -> None:
    write_json(report(), tmp_path / "r.json")
    document = json.loads((tmp_path / "r.json").read_text())
    assert document["note"] == PROXY and "no times" in PROXY
    assert document["rows"][0]["ratios"]["instructions"] == 0.8
    assert document["rows"][1]["ours"]["figures"]["loops"][0]["stack_accesses"] == 3
    assert not any("seconds" in json.dumps(row) for row in document["rows"])


def test_the_table_shows_ratios_loops_and_what_went_wrong() -> None:
    out = io.StringIO()
    table.render(report(), Console(file=out, width=200))
    text = out.getvalue()
    assert "(0.80)" in text and "98 | 98" in text and "no times" in text
    assert "warning: lost, ours: wrong: its output is off" in text
    assert "warning: lost, XNNPACK: failed: status -11" in text
    out = io.StringIO()
    table.render(report(()), Console(file=out, width=200))
    assert "No modelled cycles" in out.getvalue()


# ---- the whole -------------------------------------------------------------------------------------------------------

SMALL = (
    BenchLayer("sep", "SeparableConv2D", (1, 9, 9, 16), {"filters": 16, "kernel_size": 3, "padding": "same"}),
    BenchLayer("dw", "DepthwiseConv1D", (2, 20, 8), {"kernel_size": 5, "activation": "relu"}),
)
needs_qemu = pytest.mark.skipif(
    shutil.which("qemu-x86_64") is None, reason="qemu-x86_64 is not installed (Debian: qemu-user)"
)


def has_sysroot() -> bool:
    try:
        return bool(sysroot.find(sysroot.DEFAULT, "arm64")) and shutil.which("qemu-aarch64") is not None
    except BenchError:
        return False


@needs_qemu
@needs_llvm
def test_counts_of_this_architecture() -> None:
    """No sysroot and no peer: the machinery itself. The counts are exact, so a second run gives the same ones."""
    first, second = (main.run(BenchOptions(layers=SMALL, target="x86-64-v3")) for _ in range(2))
    assert not first.wrong(), first.rows
    for row, again in zip(first.rows, second.rows, strict=True):
        found, same = row.ours.figures, again.ours.figures
        assert found is not None and same is not None
        assert found.instructions == same.instructions
        assert found.instructions >= row.macs / 8  # eight lanes a multiply-add
        assert found.instructions < 20 * row.macs
        assert found.cycles["sapphirerapids"] > 0
    assert {loop.kind for loop in first.rows[0].ours.figures.loops} == {"pointwise", "depthwise"}  # type: ignore[union-attr]
    assert first.rows[0].xnnpack.status == "absent"


@pytest.mark.slow
@pytest.mark.skipif(not has_sysroot(), reason="no qemu-aarch64 or no sysroot (`make arm-sysroot`)")
@needs_llvm
def test_counts_beside_xnnpack() -> None:
    found = main.run(BenchOptions(layers=SMALL, target="cortex-a72"))
    assert not found.wrong(), found.rows
    for row in found.rows:
        assert row.xnnpack.status == "ok", row.xnnpack.reason
        assert row.xnnpack.error is not None and row.xnnpack.error < 1e-5
        # A layer of a few kilobytes may miss nothing at all where XNNPACK misses fifty times.
        assert all(0.001 < ratio < 100 for ratio in row.ratios(found.models).values() if ratio is not None)
