"""Call traces as the kernel prints them."""

from __future__ import annotations

from harness.boot.backtrace import Backtrace, Entry, parse_console, parse_stack

STACK = """\
[<0>] do_wait+0x5c/0x90
[<0>] crc7_be+0x10/0x30 [crc7]
[<0>] entry_SYSCALL_64_after_hwframe+0x4b/0x53
"""
CONSOLE = """\
task:init            state:S stack:0     pid:1     tgid:1     ppid:0      flags:0x0
Call Trace:
 <TASK>
 __schedule+0x3f4/0x41d
 ? sort_range+0x1b/0x1b
 schedule+0x2d/0x3e
tsc: a message of somebody else
 entry_SYSCALL_64_after_hwframe+0x4b/0x53
RIP: 0033:0x43f8d7
RSP: 002b:00007ffe9e6d6050 EFLAGS: 00000202 ORIG_RAX: 0000000000000001
 </TASK>
"""
INTERRUPT = """\
Call Trace:
 <IRQ>
 sysvec_apic_timer_interrupt+0x61/0x6c
 </IRQ>
 <TASK>
 asm_sysvec_apic_timer_interrupt+0x1a/0x20
RIP: 0010:native_halt+0xb/0xc
Code: 48 89 fa 4c 89 df
 default_idle+0x9/0xe [core]
 </TASK>
"""


def test_proc_stack() -> None:
    """Each line is an entry; a module's name is kept."""
    trace = parse_stack(STACK, "stack/7")
    assert trace == Backtrace(
        "stack/7",
        (
            Entry("do_wait", 0x5C, 0x90),
            Entry("crc7_be", 0x10, 0x30, "crc7"),
            Entry("entry_SYSCALL_64_after_hwframe", 0x4B, 0x53),
        ),
    )


def test_full_proc_stack_is_cut() -> None:
    """A trace of 64 entries may go on: nothing is known of its end."""
    assert parse_stack("[<0>] f+0x1/0x2\n" * 64, "stack/1").cut
    assert not parse_stack("[<0>] f+0x1/0x2\n" * 63, "stack/1").cut


def test_running_task_has_no_stack() -> None:
    """An empty file, or an error text, is an empty trace."""
    assert parse_stack("", "stack/1").entries == ()
    assert parse_stack("cat: permission denied\n", "stack/1").entries == ()


def test_console_trace() -> None:
    """Unreliable entries and other messages are left out; user mode is seen."""
    (trace,) = parse_console(CONSOLE, "tasks")
    assert [str(entry) for entry in trace.entries] == [
        "__schedule+0x3f4",
        "schedule+0x2d",
        "entry_SYSCALL_64_after_hwframe+0x4b",
    ]
    assert trace.user
    assert not trace.cut


def test_console_trace_through_an_interrupt() -> None:
    """The interrupted ip is an entry that was not called."""
    (trace,) = parse_console(INTERRUPT, "log")
    assert [entry.interrupted for entry in trace.entries] == [False, False, True, False]
    assert str(trace.entries[3]) == "default_idle+0x9 [core]"
    assert not trace.user


def test_time_and_level_before_each_line() -> None:
    """Stamped lines, as in the kernel's log, read the same."""
    stamped = "".join(f"<6>[    1.234567] {line}\n" for line in CONSOLE.splitlines())
    callers = "".join(f"[    1.2][   T12] {line}\n" for line in CONSOLE.splitlines())
    assert parse_console(stamped, "tasks") == parse_console(CONSOLE, "tasks")
    assert parse_console(callers, "tasks") == parse_console(CONSOLE, "tasks")


def test_trace_that_was_cut_off() -> None:
    """Without its end marker a trace says nothing of where it ended."""
    half = CONSOLE.split("tsc:", maxsplit=1)[0]
    assert [trace.cut for trace in parse_console(half, "log")] == [True]
    assert [t.cut for t in parse_console(half + CONSOLE, "log")] == [True, False]


def test_text_without_traces() -> None:
    """Anything else is no trace."""
    assert parse_console("hello\n? x\n", "log") == []
